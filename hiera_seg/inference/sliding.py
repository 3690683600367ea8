"""Predict in sliding windows: overlapping crops of the size used in training."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_seg.modeling import HieraSegmentor, NodeView
from hiera_seg.modeling.decode import NodeRows

Size = tuple[int, int]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Return the first pixels of windows along one side: every `stride`, the last at the end.

    If a window covers the `size` of the image, there is one window, at 0.
    """
    return [*range(0, max(size - window, 0), stride), max(size - window, 0)]


def count_windows(size: Size, window: Size, stride: Size) -> int:
    """Return the number of windows on an image of `size` (height, width) pixels."""
    return math.prod(len(window_starts(*side)) for side in zip(size, window, stride, strict=True))


def slide(
    model: HieraSegmentor,
    image: Tensor,
    window: Size,
    stride: Size,
    on_window: Callable[[], object] = lambda: None,
) -> NodeView:
    """Run a model on an image in windows, and average its node outputs where they overlap.

    The outputs of each window are resized to the window before. A window that covers the image
    gives exactly the output of the whole image.

    Args:
        model: a segmentor in eval mode.
        image: (C, H, W) uint8 or float.
        window: (height, width) of a window in pixels.
        stride: (down, across) steps between windows in pixels, at most `window`, so that every
            pixel is covered.
        on_window: is called after each window, for a progress bar.

    Returns:
        A view of the whole image. Its output is a :class:`WindowedOutput`, unless one window covers
        the image.
    """
    size = tuple(image.shape[-2:])
    if count_windows(size, window, stride) == 1:
        view = model.node_views([image])[0]
        on_window()
        return view
    return NodeView(WindowedOutput(model, image, window, stride, on_window), size, size)


@dataclass(frozen=True)
class WindowedOutput:
    """The node outputs of an image in windows, computed while they are decoded.

    Windows run in rows from the top to the bottom. Only the values of the windows of one row, and
    of the rows above that are still needed, are in memory, whatever the height of the image.

    Args:
        model, image, window, stride, on_window: see :func:`slide`.
    """

    model: HieraSegmentor
    image: Tensor
    window: Size
    stride: Size
    on_window: Callable[[], object] = lambda: None

    @property
    def kind(self) -> str:
        """That of the model's outputs, "logits" or "scores"."""
        return self.model.sem_seg_head.output_kind

    def rows(self) -> "WindowRows":
        """Start to run the windows."""
        return WindowRows(self)

    @property
    def values(self) -> Tensor:
        """All values, (1, N, H, W) float32; for large images decode the view instead."""
        rows = self.rows()
        return rows.take(torch.arange(rows.shape[1], device=rows.like.device))[None]


class WindowRows(NodeRows):
    """The rows of a :class:`WindowedOutput`."""

    def __init__(self, output: WindowedOutput):
        height, width = output.image.shape[-2:]
        self.shape = (output.model.hierarchy.num_nodes, height, width)
        self.like = torch.zeros((), device=output.model.device)
        self._output, self._window = output, output.window
        self._tops = window_starts(height, output.window[0], output.stride[0])
        self._lefts = window_starts(width, output.window[1], output.stride[1])
        self._row_count = self._coverage(self._tops, output.window[0], height)[:, None]
        self._column_count = self._coverage(self._lefts, output.window[1], width)
        self._nan_count = 0
        self._sums: Tensor | None = None  # (N, rows, W), of the image's rows from `_first` on
        self._first = 0
        self._filled = 0  # rows of `_sums` that windows have reached
        self._done = 0  # rows of windows

    @torch.no_grad()
    def take(self, index: Tensor) -> Tensor:
        first, last = int(index.min()), int(index.max())
        if self._sums is None:
            # Later calls ask for as many rows, except for rounding, and at most one row back
            rows = min(self.shape[1], self._window[0] + last - first + 4)
            self._sums = self.like.new_zeros(self.shape[0], rows, self.shape[2])
        while last >= self._complete:
            self._run_row(keep=max(first - 1, 0))
        return self._sums.index_select(1, index - self._first)

    def nan_count(self) -> int:
        return int(self._nan_count)

    @property
    def _complete(self) -> int:
        """The number of rows of the image that no later window covers."""
        return self._tops[self._done] if self._done < len(self._tops) else self.shape[1]

    def _run_row(self, keep: int) -> None:
        """Run the next row of windows; rows of the image above `keep` may be dropped."""
        top = self._tops[self._done]
        self._drop_rows(min(keep, top) - self._first)
        for left in self._lefts:
            place = slice(top, top + self._window[0]), slice(left, left + self._window[1])
            part = self._output.image[(..., *place)]
            values = _at_full_size(self._output.model.node_views([part])[0])
            start = top - self._first
            self._filled = start + values.shape[1]
            self._sums[:, start : self._filled, place[1]] += values
            self._output.on_window()
        self._done += 1
        complete = self._sums[:, top - self._first : self._complete - self._first]
        complete /= self._row_count[top : self._complete] * self._column_count
        is_nan = torch.zeros(complete.shape[1:], dtype=torch.bool, device=complete.device)
        for channel in complete:  # a mask of all channels would need much memory
            is_nan |= channel.isnan()
        self._nan_count += is_nan.sum()

    def _drop_rows(self, count: int) -> None:
        """Move the rows of the sums up by `count`."""
        if count <= 0:
            return
        left = self._filled - count
        for start in range(0, left, count):  # in pieces that do not overlap
            end = min(start + count, left)
            self._sums[:, start:end] = self._sums[:, start + count : end + count]
        self._sums[:, max(left, 0) :] = 0
        self._first += count

    def _coverage(self, starts: list[int], window: int, size: int) -> Tensor:
        """Return the number of windows over each position of a side, float (size,)."""
        count = self.like.new_zeros(size)
        for start in starts:
            count[start : start + window] += 1
        return count


def _at_full_size(view: NodeView) -> Tensor:
    """Resize the values of a view to the size of its image; returns (N, H, W) float32."""
    values = F.interpolate(
        view.output.values.float(), view.padded_size, mode="bilinear", align_corners=False
    )
    return values[0, :, : view.image_size[0], : view.image_size[1]]
