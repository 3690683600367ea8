"""Encode the positions of a feature map as vectors for attention."""

import math

import torch
from torch import Tensor


def sine_positions(
    height: int, width: int, channels: int, *, device: torch.device | str | None = None
) -> Tensor:
    """Return sines and cosines of the row, then of the column, of each position of a map.

    Rows and columns are counted from 1 and scaled to (0, 2 pi] (Carion et al., DETR, ECCV 2020,
    with its normalised positions). For one coordinate the channels 2k and 2k + 1 are the sine and
    cosine at wavelength ``10000^(4k / channels)``.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels: length of a vector, a multiple of 4.
        device: device of the result.

    Returns:
        float32 (height * width, channels), row by row.

    Raises:
        ValueError: ``channels`` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels is {channels}; it must be a multiple of 4")
    pairs = torch.arange(channels // 4, dtype=torch.float32, device=device)
    wavelength = 10000 ** (pairs * (4 / channels))

    def waves(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = (steps * (2 * math.pi / (length + 1e-6)))[:, None] / wavelength
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    rows = waves(height)[:, None].expand(-1, width, -1)
    columns = waves(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)
