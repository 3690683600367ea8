"""A loss as a sum over pixels, computed a tile at a time together with its gradient.

A loss over all nodes of a full-size batch is limited by memory, not by arithmetic: each pass over
the logits reads and writes hundreds of megabytes. So a loss here is a function of a tile of pixels
that fits a CPU's cache and gives value and gradient at once. Only the gradient is kept, in the
type of the logits; no mask, target or intermediate of full size ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# (logits (N, P), label indices (P,)) -> (sum over the pixels, gradient (N, P)).
TileLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# (logits (B, N, H, W), label indices (B, H, W), gradient to write or None) -> sum. The logits
# have a `layout`, and the gradient has the same.
WholeLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Values a tile holds on a CPU: a few such tiles lie in the second-level cache of a core.
_TILE_VALUES = 1 << 18


def loss_dtype(logits: Tensor) -> torch.dtype:
    """The type a loss is computed in: float32, or float64 for float64 logits."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def excess(total: Tensor) -> Tensor:
    """What to divide the weights of a loss by, and to multiply `scale` with, for half precision.

    Weights of rare classes or levels make slopes that are infinite in float16, though the gradient
    is not once the number of pixels has divided it. A power of two, so that no other type sees a
    difference.

    Args:
        total: scalar, what the weights of a pixel add up to at most, 0 or more.

    Returns:
        Scalar of the same type: `total` divided by it is below 2^14, a quarter of float16's range.
    """
    exponent = torch.frexp(total).exponent.clamp(-64, 64)
    return torch.ldexp(torch.ones_like(total), exponent - 14)


def layout(maps: Tensor) -> tuple[int, int, int] | None:
    """How far apart images, nodes and pixels of (B, N, H, W) lie in memory, in values.

    0 where there is only one of them: the stride of such a dimension says nothing. None where
    pixels in reading order do not lie at one step, as those of a transposed or cropped map.
    """
    _, _, height, width = maps.shape
    image, node, row, column = (
        stride if size > 1 else 0 for size, stride in zip(maps.shape, maps.stride(), strict=True)
    )
    if height > 1 and width > 1 and row != width * column:
        return None
    return image, node, column if width > 1 else row


def sum_over_pixels(
    logits: Tensor,
    index: Tensor,
    tile_loss: TileLoss,
    whole_loss: WholeLoss | None = None,
    *,
    scale: Tensor | None = None,
) -> Tensor:
    """Sum a loss over all pixels of a batch, with a gradient to the logits.

    Args:
        logits: (B, N, H, W) float16, bfloat16, float32 or float64, any memory layout.
        index: int64 (B, H, W), passed on to `tile_loss`; N for void. A void pixel adds 0 and gets
            a gradient of 0 whatever its logits are, NaN and infinity included.
        tile_loss: gives the sum over a tile's pixels and its gradient with respect to the tile.
            The tile is float32 (float64 for float64 logits) and must not be changed.
        whole_loss: does it all at once, where there is a kernel that can.
        scale: scalar of the type of the result that the sum is multiplied by, a constant. Given
            here instead of outside, it spares the backward pass a round over the gradient.

    Returns:
        Scalar, float32 (float64 for float64 logits). Can be differentiated once.
    """
    if scale is None:
        scale = torch.ones((), dtype=loss_dtype(logits), device=logits.device)
    return _TiledSum.apply(logits, index, tile_loss, whole_loss, scale)


def _is_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _masked_tile(
    pixels: Tensor, labels: Tensor, tile_loss: TileLoss, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`tile_loss` of pixels (N, P) of any type, logits of void replaced by 0.

    Tile losses multiply void by 0, which NaN and infinity survive. On a CPU the logits are replaced
    only where the sum shows that it is needed; on a GPU to ask would be to wait.
    """
    if not _is_on_cpu(pixels):
        return tile_loss(_mask_void(pixels, labels, dtype).contiguous(), labels)
    # Rows of the whole image lie at strides that fall into the same cache lines.
    values = pixels.to(dtype).contiguous()
    value, slope = tile_loss(values, labels)
    if not math.isfinite(value):
        value, slope = tile_loss(_mask_void(values, labels, dtype), labels)
    return value, slope


def _mask_void(pixels: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((1, 1), dtype=dtype, device=pixels.device)  # not a scalar: it sets the type
    return torch.where(labels == len(pixels), zero, pixels)


class _TiledSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        logits: Tensor,
        index: Tensor,
        tile_loss: TileLoss,
        whole_loss: WholeLoss | None,
        scale: Tensor,
    ) -> Tensor:
        dtype = loss_dtype(logits)
        # One over the number of pixels is lost in half precision; its product with what comes
        # back from the loss's own weight, or from a gradient scaler, is not.
        ctx.is_scaled = logits.dtype == dtype and whole_loss is None
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(logits)  # the layout of the logits where that is dense
            if layout(gradient) is None:  # flattening it below has to be a view
                gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        if whole_loss is not None:
            if gradient is not None and layout(logits) != layout(gradient):
                logits = torch.empty_like(gradient).copy_(logits)
            elif layout(logits) is None:
                logits = logits.contiguous()
            value = whole_loss(logits, index, gradient)
            ctx.save_for_backward(gradient, scale)
            return value * scale
        sums = [torch.zeros((), dtype=dtype, device=logits.device)]
        num_pixels = index[0].numel() if len(index) else 0
        # A GPU wants few large steps; its kernels hide the memory's latency themselves.
        values = _TILE_VALUES // logits.shape[1]
        step = max(1, values if _is_on_cpu(logits) else num_pixels)
        for image in range(len(index)):
            pixels = logits[image].flatten(1)
            labels = index[image].flatten()
            for start in range(0, num_pixels, step):
                tile = slice(start, start + step)
                value, slope = _masked_tile(pixels[:, tile], labels[tile], tile_loss, dtype)
                sums.append(value)
                if gradient is not None:
                    target = gradient[image].flatten(1)[:, tile]
                    if ctx.is_scaled:
                        torch.mul(slope, scale, out=target)
                    else:
                        target.copy_(slope)
        ctx.save_for_backward(gradient, scale)
        return torch.stack(sums).sum() * scale

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        if torch.is_grad_enabled():  # create_graph=True; the kept gradient would pass for constant
            raise RuntimeError(
                "losses on node logits can be differentiated once: call backward() or "
                "torch.autograd.grad() without create_graph=True"
            )
        gradient, scale = ctx.saved_tensors
        factor = grad_output if ctx.is_scaled else grad_output * scale
        if gradient.dtype == factor.dtype:
            # A round over the whole gradient for nothing; on a GPU to ask would be to wait.
            if factor.device.type != "cpu" or factor != 1:
                gradient = gradient * factor
            return gradient, None, None, None, None
        scaled = torch.empty_like(gradient)
        for image, target in zip(gradient, scaled, strict=True):
            target.copy_(image.to(factor.dtype) * factor)
        return scaled, None, None, None, None
