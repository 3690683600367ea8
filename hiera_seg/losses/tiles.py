"""A loss as a sum over pixels, computed a tile at a time together with its gradient.

A loss over all nodes of a full-size batch is limited by memory, not by arithmetic: each pass over
the logits reads and writes hundreds of megabytes. So a loss here is a function of a tile of pixels
that fits a CPU's cache and gives value and gradient at once. Only the gradient is kept, in the
type of the logits; no mask, target or intermediate of full size ever exists.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (logits (N, P), label indices (P,)) -> (sum over the pixels, gradient (N, P)).
TileLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# (logits (B, N, H, W), label indices (B, H, W), gradient to write or None) -> sum.
WholeLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Values a tile holds on a CPU: a few such tiles lie in the second-level cache of a core.
_TILE_VALUES = 1 << 18


def loss_dtype(logits: Tensor) -> torch.dtype:
    """The type a loss is computed in: float32, or float64 for float64 logits."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def sum_over_pixels(
    logits: Tensor, index: Tensor, tile_loss: TileLoss, whole_loss: WholeLoss | None = None
) -> Tensor:
    """Sum a loss over all pixels of a batch, with a gradient to the logits.

    Args:
        logits: (B, N, H, W) float16, bfloat16, float32 or float64, any memory layout.
        index: int64 (B, H, W), passed on to `tile_loss`.
        tile_loss: gives the sum over a tile's pixels and its gradient with respect to the tile.
            The tile is float32 (float64 for float64 logits) and must not be changed.
        whole_loss: does it all at once, where there is a kernel that can.

    Returns:
        Scalar, float32 (float64 for float64 logits). Can be differentiated once.
    """
    return _TiledSum.apply(logits, index, tile_loss, whole_loss)


class _TiledSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, logits: Tensor, index: Tensor, tile_loss: TileLoss, whole_loss: WholeLoss | None
    ) -> Tensor:
        dtype = loss_dtype(logits)
        gradient = None
        if ctx.needs_input_grad[0]:
            channels_last = logits.is_contiguous(memory_format=torch.channels_last)
            # A dense layout in either order: flattening it below is a view that can be written to.
            gradient = torch.empty_like(
                logits,
                memory_format=torch.channels_last if channels_last else torch.contiguous_format,
            )
        if whole_loss is not None:
            if gradient is None or logits.stride() != gradient.stride():
                logits = logits.contiguous()
            value = whole_loss(logits, index, gradient)
            ctx.save_for_backward(gradient)
            return value
        sums = [torch.zeros((), dtype=dtype, device=logits.device)]
        num_pixels = index[0].numel() if len(index) else 0
        # A GPU wants few large steps; its kernels hide the memory's latency themselves.
        on_cpu = logits.device.type == "cpu"
        step = max(1, _TILE_VALUES // logits.shape[1] if on_cpu else num_pixels)
        for image in range(len(index)):
            pixels = logits[image].flatten(1)
            labels = index[image].flatten()
            for start in range(0, num_pixels, step):
                tile = slice(start, start + step)
                # Rows of the whole image lie at strides that fall into the same cache lines.
                values = pixels[:, tile].to(dtype).contiguous()
                value, slope = tile_loss(values, labels[tile])
                sums.append(value)
                if gradient is not None:
                    gradient[image].flatten(1)[:, tile] = slope
        ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        if torch.is_grad_enabled():  # create_graph=True; the kept gradient would pass for constant
            raise RuntimeError(
                "losses on node logits can be differentiated once: call backward() or "
                "torch.autograd.grad() without create_graph=True"
            )
        (gradient,) = ctx.saved_tensors
        if gradient.dtype == grad_output.dtype:
            return gradient * grad_output, None, None, None
        # One over the number of pixels is lost in half precision; their product is not.
        scaled = torch.empty_like(gradient)
        for image, target in zip(gradient, scaled, strict=True):
            target.copy_(image.to(grad_output.dtype) * grad_output)
        return scaled, None, None, None
