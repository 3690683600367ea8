"""Sum a loss over pixels in tiles, computing value and gradient in one pass.

A loss over all nodes of a full-size batch is limited by memory, not by arithmetic: each pass over
the logits reads and writes hundreds of megabytes. A loss is therefore written as a function of a
tile of pixels that fits a CPU's cache and returns value and gradient at once. Only the gradient is
kept, in the dtype of the logits; no mask, target or intermediate of full size ever exists.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# (logits (N, P), indices (P,), factor, gradient (N, P) or None, exact) -> sum over the pixels.
Tile = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]

# Number of values of a tile per CPU thread, for which the few buffers of a loss fit the L2 cache of
# a core, and the maximum for a tile. Several threads have twice as many, because they wait for the
# slowest of them in each operation.
_THREAD_VALUES = 1 << 17
_MAX_VALUES = 1 << 20
# With fewer pixels, the overhead per operation would dominate for trees of thousands of nodes.
_MIN_PIXELS = 256


def loss_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype a loss is computed in: float32, or float64 for float64 logits."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def half_precision_scale(total: Tensor) -> Tensor:
    """Return a power of two that keeps gradients in half precision finite.

    The weights of a loss are divided by it, and `scale` is multiplied by it. Without it, the large
    weights of rare classes or levels give slopes that are infinite in float16, although the
    gradient is finite after the division by the number of pixels. Scaling by a power of two is
    exact in all other dtypes.

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


def tile_pixels(num_nodes: int) -> int:
    """Return the number of pixels of one tile on a CPU."""
    threads = torch.get_num_threads()
    values = min(_THREAD_VALUES * threads * (1 if threads == 1 else 2), _MAX_VALUES)
    return max(values // num_nodes, _MIN_PIXELS)


class Buffers:
    """Buffers that are reused for each tile and therefore stay in the cache."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def take(self, count: int, rows: int, like: Tensor) -> tuple[Tensor, ...]:
        """Return `count` matrices (rows, P) without initial values, for a tile (N, P)."""
        shape = (count, rows, like.shape[1])
        if self._memory is None or self._memory.numel() < math.prod(shape):
            dtype = loss_dtype(like)
            self._memory = torch.empty(math.prod(shape), dtype=dtype, device=like.device)
        return self._memory[: math.prod(shape)].view(shape).unbind()


def sum_over_pixels(
    logits: Tensor,
    index: Tensor,
    tile: Tile,
    *,
    scale: Tensor | None = None,
    fused: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None,
) -> Tensor:
    """Sum a loss over all pixels of a batch, with a gradient to the logits.

    Args:
        logits: (B, N, H, W) float16, bfloat16, float32 or float64, with any strides.
        index: int64 (B, H, W), passed on to `tile`; N for void. A void pixel adds 0 and gets a
            gradient of 0 whatever its logits are, NaN and infinity included.
        tile: returns the sum over the pixels of a tile. It writes the gradient with respect to the
            tile, times a scalar factor, to its fourth argument unless that is None. The tile is
            float32 (float64 for float64 logits), may have any strides, and must not be changed.
            Unless `exact` is set, it may return NaN or infinity for logits whose exponential is
            not representable; on a CPU it is then called again.
        scale: scalar constant, of the dtype of the result, by which the sum is multiplied. Applying
            it here instead of outside saves a pass over the gradient in the backward.
        fused: used instead of `tile`, if given: returns the sum over all pixels for (logits, index,
            gradient), and writes the gradient unless that is None.

    Returns:
        Scalar, float32 (float64 for float64 logits). Can be differentiated once.
    """
    if scale is None:
        scale = torch.ones((), dtype=loss_dtype(logits), device=logits.device)
    return _PixelSum.apply(logits, index, tile, fused, scale)


def new_gradient(logits: Tensor) -> Tensor:
    """Return an empty tensor with the strides of the logits where these are dense."""
    gradient = torch.empty_like(logits)
    if strides(gradient) is None:  # flattening its pixels has to give a view
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return gradient


def _multiply(gradient: Tensor, factor: Tensor) -> Tensor:
    """Return the stored gradient times a factor, in the dtype of the gradient (for backward).

    Raises:
        RuntimeError: with ``create_graph=True``; the stored gradient would be taken as constant.
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


class _PixelSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, logits: Tensor, index: Tensor, tile: Tile, fused: Callable | None, scale: Tensor
    ) -> Tensor:
        # Divided by the number of pixels, a gradient in half precision would underflow. It is
        # therefore stored undivided; backward multiplies it by `scale` times the incoming gradient
        # (which includes the loss weight and the gradient scaler).
        ctx.is_scaled = fused is None and logits.dtype == scale.dtype
        gradient = new_gradient(logits) if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(gradient, scale)
        if fused is not None:
            return fused(logits, index, gradient) * scale
        factor = scale if ctx.is_scaled else torch.ones_like(scale)
        sums = [torch.zeros_like(scale)]
        num_pixels = index[0].numel() if len(index) else 0
        # A GPU needs few large steps; its kernels hide the memory's latency themselves.
        step = tile_pixels(logits.shape[1]) if is_on_cpu(logits) else max(1, num_pixels)
        for image in range(len(index)):
            pixels, labels = logits[image].flatten(1), index[image].flatten()
            slopes = None if gradient is None else gradient[image].flatten(1)
            for start in range(0, num_pixels, step):
                part = slice(start, start + step)
                target = None if slopes is None else slopes[:, part]
                sums.append(_masked_tile(pixels[:, part], labels[part], tile, factor, target))
        return torch.stack(sums).sum() * scale

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        gradient, scale = ctx.saved_tensors
        factor = grad_output if ctx.is_scaled else grad_output * scale
        return _multiply(gradient, factor), None, None, None, None


def _masked_tile(
    pixels: Tensor, labels: Tensor, tile: Tile, factor: Tensor, target: Tensor | None
) -> Tensor:
    """Compute `tile` of pixels (N, P) of any dtype with the logits of void replaced by 0.

    Tiles multiply the terms of void pixels by 0, which does not remove NaN and infinity. On a CPU,
    the logits are replaced only if the sum is not finite, and `exact` is set only if it still is
    not. On a GPU both are always done, because this test would have to wait for the device.
    """
    values, on_cpu = pixels.to(factor.dtype), is_on_cpu(pixels)
    slopes = target
    if target is not None and target.dtype != factor.dtype:
        slopes = torch.empty_like(values)
    if on_cpu:
        value = tile(values, labels, factor, slopes, False)
    if not on_cpu or not math.isfinite(value):
        values = values.masked_fill(labels == len(values), 0)
        value = tile(values, labels, factor, slopes, not on_cpu)
        if on_cpu and not math.isfinite(value):
            value = tile(values, labels, factor, slopes, True)
    if slopes is not target:
        target.copy_(slopes)
    return value


def is_on_cpu(tensor: Tensor) -> bool:
    """Return whether a tensor is on the CPU, where reading values does not wait for a device."""
    return tensor.device.type == "cpu"
