"""Sliding windows: an image seen in overlapping crops of the size that training saw."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_seg.layers.scores import NodeOutput
from hiera_seg.modeling import HieraSegmentor, NodeView

Size = tuple[int, int]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every `stride`, the last one flush with the end.

    Args:
        size: pixels of the image along the side.
        window: of a window; one as large as the image or larger begins at 0, alone.
        stride: 1 or more.
    """
    return [*range(0, max(size - window, 0), stride), max(size - window, 0)]


def slide(model: HieraSegmentor, image: Tensor, window: Size, stride: Size) -> NodeView:
    """What a model says about an image that it sees in windows.

    Each window's node outputs are resized to the window; where windows overlap, their mean is
    taken. A window that covers the image gives exactly what the whole image gives.

    Args:
        model: in eval.
        image: (C, H, W) uint8 or float.
        window: (height, width) of a window.
        stride: (down, across) steps between windows; no larger than `window`, or pixels between
            them would never be seen.

    Returns:
        A view of the whole image, values (1, N, H, W) float32.
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
    """Values (1, N, H, W) of a view at the size of its image."""
    values = F.interpolate(
        view.output.values.float(), view.padded_size, mode="bilinear", align_corners=False
    )
    return values[..., : view.image_size[0], : view.image_size[1]]
