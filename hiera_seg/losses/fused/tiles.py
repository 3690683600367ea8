"""Sum a loss over pixels in tiles, computing value and gradient in one pass.

A loss over all nodes of a full-size batch is limited by memory, not by arithmetic: each pass over
the logits reads and writes hundreds of megabytes. A loss is therefore written as a function of a
tile of pixels that fits a CPU's cache and returns value and gradient at once. Only the gradient is
kept, in the dtype of the logits; no mask, target or intermediate of full size ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# (logits (N, P), label indices (P,)) -> (sum over the pixels, gradient (N, P)).
Tile = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Values of one tile on a CPU: a few such tiles fit the second-level cache of a core.
_TILE_VALUES = 1 << 18


def loss_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype a loss is computed in: float32, or float64 for float64 logits."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def half_precision_scale(total: Tensor) -> Tensor:
    """Return a power of two that keeps gradients in half precision finite.

    The weights of a loss are divided by it, and `scale` is multiplied by it: weights of rare
    classes or levels make slopes that are infinite in float16, though the gradient is finite after
    the division by the number of pixels. Powers of two are exact in all other dtypes.

    Args:
        total: scalar, an upper bound of the sum of the weights of a pixel, 0 or more.

    Returns:
        Scalar of the same dtype: `total` divided by it is below 2^14, a quarter of float16's range.
    """
    exponent = torch.frexp(total).exponent.clamp(-64, 64)
    return torch.ldexp(torch.ones_like(total), exponent - 14)


def strides(maps: Tensor) -> tuple[int, int, int] | None:
    """Return the strides of images, nodes and pixels of (B, N, H, W), in values.

    0 for a dimension of size 1, whose stride has no meaning. None if pixels in reading order are
    not at equal distances, as in a transposed or cropped map.
    """
    _, _, height, width = maps.shape
    image, node, row, column = (
        stride if size > 1 else 0 for size, stride in zip(maps.shape, maps.stride(), strict=True)
    )
    if height > 1 and width > 1 and row != width * column:
        return None
    return image, node, column if width > 1 else row


def sum_over_pixels(
    logits: Tensor, index: Tensor, tile: Tile, *, scale: Tensor | None = None
) -> Tensor:
    """Sum a loss over all pixels of a batch, with a gradient to the logits.

    Args:
        logits: (B, N, H, W) float16, bfloat16, float32 or float64, with any strides.
        index: int64 (B, H, W), passed on to `tile`; N for void. A void pixel adds 0 and gets a
            gradient of 0 whatever its logits are, NaN and infinity included.
        tile: returns the sum over the pixels of a tile and its gradient with respect to the tile.
            The tile is float32 (float64 for float64 logits) and must not be changed.
        scale: scalar constant, of the dtype of the result, that the sum is multiplied by. Applied
            here instead of outside, it saves the backward pass a pass over the gradient.

    Returns:
        Scalar, float32 (float64 for float64 logits). Can be differentiated once.
    """
    if scale is None:
        scale = torch.ones((), dtype=loss_dtype(logits), device=logits.device)
    return _TiledSum.apply(logits, index, tile, scale)


def new_gradient(logits: Tensor) -> Tensor:
    """Return an empty tensor with the strides of the logits where these are dense."""
    gradient = torch.empty_like(logits)
    if strides(gradient) is None:  # flattening its pixels has to give a view
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return gradient


def multiply_gradient(gradient: Tensor, factor: Tensor) -> Tensor:
    """Return the kept gradient times a factor, in the dtype of the gradient: the backward pass.

    Raises:
        RuntimeError: with ``create_graph=True``; the kept gradient would pass for a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "losses on node logits can be differentiated once; call backward() or "
            "torch.autograd.grad() without create_graph=True"
        )
    if gradient.dtype == factor.dtype:
        # A factor of 1 saves a CPU the pass over the gradient; on a GPU the test would wait.
        if factor.device.type != "cpu" or factor != 1:
            gradient = gradient * factor
        return gradient
    scaled = torch.empty_like(gradient)
    for image, target in zip(gradient, scaled, strict=True):
        target.copy_(image.to(factor.dtype) * factor)
    return scaled


class _TiledSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, index: Tensor, tile: Tile, scale: Tensor) -> Tensor:
        dtype = loss_dtype(logits)
        # In half precision the product of one over the number of pixels and the incoming gradient
        # (a loss weight, a gradient scaler) is kept; the reciprocal alone would underflow.
        ctx.is_scaled = logits.dtype == dtype
        gradient = new_gradient(logits) if ctx.needs_input_grad[0] else None
        sums = [torch.zeros((), dtype=dtype, device=logits.device)]
        num_pixels = index[0].numel() if len(index) else 0
        # A GPU needs few large steps; its kernels hide the memory's latency themselves.
        values = _TILE_VALUES // logits.shape[1]
        step = max(1, values if _is_on_cpu(logits) else num_pixels)
        for image in range(len(index)):
            pixels = logits[image].flatten(1)
            labels = index[image].flatten()
            for start in range(0, num_pixels, step):
                part = slice(start, start + step)
                value, slope = _masked_tile(pixels[:, part], labels[part], tile, dtype)
                sums.append(value)
                if gradient is not None:
                    target = gradient[image].flatten(1)[:, part]
                    if ctx.is_scaled:
                        torch.mul(slope, scale, out=target)
                    else:
                        target.copy_(slope)
        ctx.save_for_backward(gradient, scale)
        return torch.stack(sums).sum() * scale

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        gradient, scale = ctx.saved_tensors
        factor = grad_output if ctx.is_scaled else grad_output * scale
        return multiply_gradient(gradient, factor), None, None, None


def _masked_tile(
    pixels: Tensor, labels: Tensor, tile: Tile, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute `tile` of pixels (N, P) of any dtype with the logits of void replaced by 0.

    Tiles multiply void by 0, which leaves NaN and infinity. On a CPU the logits are replaced only
    if the sum shows that this is needed; on a GPU this test would wait for the device.
    """
    if not _is_on_cpu(pixels):
        return tile(_mask_void(pixels, labels, dtype).contiguous(), labels)
    # In the whole image, rows of one tile have strides that map to the same cache lines.
    values = pixels.to(dtype).contiguous()
    value, slope = tile(values, labels)
    if not math.isfinite(value):
        value, slope = tile(_mask_void(values, labels, dtype), labels)
    return value, slope


def _mask_void(pixels: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((1, 1), dtype=dtype, device=pixels.device)  # no scalar: it sets the dtype
    return torch.where(labels == len(pixels), zero, pixels)


def _is_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
