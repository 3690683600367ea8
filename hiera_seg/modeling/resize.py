"""Resize maps along rows and columns separately, as bilinear resizing does in one step."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Resize(NamedTuple):
    """One bilinear resize along rows: row i is a weighted mean of rows low and high."""

    low: Tensor  # (rows out,) int64
    high: Tensor  # (rows out,) int64
    weight: Tensor  # (rows out, 1) float, of the high row


def row_resizes(size: int, padded: int, image: int, final: int, like: Tensor) -> list[Resize]:
    """Return the resizes of rows, first to last; the crop between only limits the second."""
    steps = [(size, padded), (image, final)]
    return [_resize_taps(a, b, like) for a, b in steps if a != b]


def _resize_taps(size_in: int, size_out: int, like: Tensor) -> Resize:
    # The source coordinate of F.interpolate, in the same precision.
    position = torch.arange(size_out, dtype=like.dtype, device=like.device) + 0.5
    position = (position * (size_in / size_out) - 0.5).clamp_(min=0)
    low = position.long().clamp_(max=size_in - 1)
    return Resize(low, (low + 1).clamp_(max=size_in - 1), (position - low)[:, None])


def resize_rows(take: Callable[[Tensor], Tensor], steps: list[Resize], index: Tensor) -> Tensor:
    """Return rows `index` of the values after all resizes, as (N, len(index), w).

    The recursion goes from output rows to the input rows that they depend on, which `take` returns
    by their index, so that no other row is computed.
    """
    if not steps:
        return take(index)
    *earlier, step = steps
    return torch.lerp(
        resize_rows(take, earlier, step.low[index]),
        resize_rows(take, earlier, step.high[index]),
        step.weight[index],
    )


def resize_row_range(values: Tensor, steps: list[Resize], rows: range, first: int) -> Tensor:
    """Return a range of rows after all resizes, each row between computed once.

    Args:
        values: (N, k, w) on a CPU, the rows `first` to ``first + k - 1`` of the values.
        steps: the resizes.
        rows: the rows of the result, all of which depend on the given rows alone.
        first: row of the first value.

    Returns:
        (N, len(rows), w).
    """
    if not steps:
        return values[:, rows.start - first : rows.stop - first]
    *earlier, step = steps
    needed = rows_needed([step], rows)
    source = resize_row_range(values, earlier, needed, first)
    out = source.new_empty(source.shape[0], len(rows), source.shape[2])
    low, high, weight = (table[rows.start : rows.stop].flatten().tolist() for table in step)
    for i, (a, b, w) in enumerate(zip(low, high, weight, strict=True)):
        torch.lerp(source[:, a - needed.start], source[:, b - needed.start], w, out=out[:, i])
    return out


def rows_needed(steps: list[Resize], rows: range) -> range:
    """Return the rows of the values on which a range of rows of the result depends."""
    for low, high, _ in reversed(steps):
        rows = range(int(low[rows.start]), int(high[rows.stop - 1]) + 1)
    return rows


def resize_columns(values: Tensor, padded: int, image: int, final: int) -> Tensor:
    """Apply the same resizes and crop along columns: (N, rows, w) -> (N, rows, final)."""
    values = _resize_width(values, padded)[..., :image]
    return _resize_width(values, final)


def _resize_width(values: Tensor, width: int) -> Tensor:
    if values.shape[-1] == width:
        return values
    if values.device.type == "cpu":
        return F.interpolate(values, size=width, mode="linear", align_corners=False)
    # On a GPU the linear kernel has one thread per column, the bilinear kernel one per pixel.
    planes = values.reshape(1, 1, -1, values.shape[-1])
    size = (planes.shape[2], width)
    planes = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
    return planes.view(*values.shape[:-1], width)
