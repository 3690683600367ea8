"""Predict in sliding windows: overlapping crops of the size used in training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_seg.layers.scores import NodeOutput
from hiera_seg.modeling import HieraSegmentor, NodeView

Size = tuple[int, int]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Return where windows start along one side: every `stride`, the last flush with the end.

    Args:
        size: pixels of the image along that side.
        window: pixels of a window; if it covers the image, there is one window, at 0.
        stride: pixels between windows, 1 or more.
    """
    return [*range(0, max(size - window, 0), stride), max(size - window, 0)]


def slide(model: HieraSegmentor, image: Tensor, window: Size, stride: Size) -> NodeView:
    """Run a model on an image in windows, and average its node outputs where they overlap.

    The outputs of each window are resized to the window before. A window that covers the image
    gives exactly the output of the whole image.

    Args:
        model: a segmentor in eval mode.
        image: (C, H, W) uint8 or float.
        window: (height, width) of a window in pixels.
        stride: (down, across) steps between windows in pixels, at most `window`, so that every
            pixel is covered.

    Returns:
        A view of the whole image, with values (1, N, H, W) float32.
    """
    height, width = image.shape[-2:]
    tops = window_starts(height, window[0], stride[0])
    lefts = window_starts(width, window[1], stride[1])
    if len(tops) == len(lefts) == 1:
        return model.node_views([image])[0]
    total, kind = None, ""
    count = torch.zeros(height, width, device=model.device)
    for top in tops:
        for left in lefts:
            place = ..., slice(top, top + window[0]), slice(left, left + window[1])
            view = model.node_views([image[place]])[0]
            values = _at_full_size(view)
            if total is None:
                total, kind = values.new_zeros(1, values.shape[1], height, width), view.output.kind
            total[place] += values
            count[place] += 1
    return NodeView(NodeOutput(total.div_(count), kind), (height, width), (height, width))


def _at_full_size(view: NodeView) -> Tensor:
    """Resize the values of a view to the size of its image; returns (1, N, H, W) float32."""
    values = F.interpolate(
        view.output.values.float(), view.padded_size, mode="bilinear", align_corners=False
    )
    return values[..., : view.image_size[0], : view.image_size[1]]
