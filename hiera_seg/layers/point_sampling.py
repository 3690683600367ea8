"""Sample points where labels are valid and where masks are uncertain.

A loss on a few thousand points takes a fraction of the time and memory of a loss on all pixels, and
trains as well (Kirillov et al., PointRend, CVPR 2020; Cheng et al., Mask2Former, CVPR 2022).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Points(NamedTuple):
    """Points of one image.

    Attributes:
        xy: (..., P, 2) float32; (0, 0) is the top left corner of the image, (1, 1) the bottom
            right one.
        pixel: int64 (..., P), the index of the pixel of each point, row by row.
    """

    xy: Tensor
    pixel: Tensor


def draw_points(
    valid: Tensor, shape: tuple[int, ...], *, generator: torch.Generator | None = None
) -> Points:
    """Draw points uniformly over the valid area of an image; void is never drawn.

    Args:
        valid: bool (H, W), at least one True.
        shape: shape of the result, without coordinates.
        generator: on the device of ``valid``; None for PyTorch's own.

    Returns:
        Points of that shape.
    """
    height, width = valid.shape
    pixels = valid.flatten().nonzero()[:, 0]
    options = {"device": valid.device, "generator": generator}
    pixel = pixels[torch.randint(len(pixels), shape, **options)]
    xy = torch.rand((*shape, 2), **options)
    row = torch.div(pixel, width, rounding_mode="floor")
    corner = torch.stack([pixel - row * width, row], -1)
    return Points((corner + xy) / xy.new_tensor([width, height]), pixel)


def sample_maps(maps: Tensor, xy: Tensor) -> Tensor:
    """Interpolate maps at points, bilinearly between pixel centres and constant at the border.

    Args:
        maps: (B, C, h, w) float. Half precision is interpolated in float32.
        xy: (B, P, 2) float, from (0, 0), the top left corner, to (1, 1).

    Returns:
        (B, C, P) float32 or float64.
    """
    dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
    with torch.autocast(maps.device.type, enabled=False):
        grid = (2 * xy.to(dtype) - 1)[:, None]
        # Zero padding would halve the logits of points at the border
        found = F.grid_sample(maps.to(dtype), grid, padding_mode="border", align_corners=False)
    return found[:, :, 0]


@torch.no_grad()
def draw_uncertain_points(
    mask_logits: Tensor,
    valid: Tensor,
    num_points: int,
    *,
    oversample_ratio: float = 3.0,
    importance_ratio: float = 0.75,
    generator: torch.Generator | None = None,
) -> Points:
    """Draw points for each mask of one image, more of them where the logit is near 0.

    ``oversample_ratio * num_points`` candidates are drawn uniformly over the valid area. Those with
    the lowest absolute logits form the share ``importance_ratio`` of the result; the other points
    are drawn uniformly.

    Args:
        mask_logits: (K, h, w) float, of any size, covering the image.
        valid: bool (H, W), at least one True.
        num_points: P, points per mask.
        oversample_ratio: 1 or more.
        importance_ratio: in [0, 1].
        generator: on the device of ``valid``; None for PyTorch's own.

    Returns:
        Points (K, P): the important ones first.
    """
    masks = len(mask_logits)
    important = int(importance_ratio * num_points)
    candidates = draw_points(
        valid, (masks, int(oversample_ratio * num_points)), generator=generator
    )
    logits = sample_maps(mask_logits[:, None], candidates.xy)[:, 0]
    best = logits.abs().topk(important, dim=1, largest=False, sorted=False).indices
    uniform = draw_points(valid, (masks, num_points - important), generator=generator)
    return Points(
        torch.cat([candidates.xy.gather(1, best[..., None].expand(-1, -1, 2)), uniform.xy], 1),
        torch.cat([candidates.pixel.gather(1, best), uniform.pixel], 1),
    )
