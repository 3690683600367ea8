"""Implement multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) in PyTorch.

Each query attends to a few points of each of several feature maps instead of all positions. The
implementation uses ``grid_sample`` and needs no compiled operator.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]


def multi_scale_deformable_attention(
    values: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute the weighted sum of feature maps at the points of each query and head.

    With maps ``V_l``, points ``x_lp`` and weights ``a_lp`` the result of a query is the sum over
    levels l and points p of ``a_lp V_l(x_lp)``, where ``V_l(x)`` interpolates bilinearly between
    the centres of pixels and is 0 outside of the map.

    Args:
        values: (B, S, M, D) float, the maps of all levels, each row by row, one after the other,
            for M heads of D channels.
        sizes: (height, width) of each level as plain integers, which avoids data-dependent shapes
            in a trace. Their products sum to S.
        locations: (B, Q, M, L, P, 2) float, (x, y) of the points: (0, 0) is the top left corner of
            a map, (1, 1) the bottom right one. Points may lie outside.
        weights: (B, Q, M, L, P) float.

    Returns:
        (B, Q, M * D) of the dtype of ``values``. Half precision is interpolated in float32.

    Raises:
        ValueError: the shapes do not fit each other; not checked in a trace, which would store
            the comparison of this batch's sizes.
    """
    batch, positions, heads, channels = values.shape
    queries = locations.shape[1]
    if not torch.jit.is_tracing():
        expected = (batch, queries, heads, len(sizes))
        fits = weights.shape[:4] == expected and locations.shape == (*weights.shape, 2)
        if not fits or sum(height * width for height, width in sizes) != positions:
            raise ValueError(
                f"values {tuple(values.shape)}, locations {tuple(locations.shape)} and weights "
                f"{tuple(weights.shape)} do not fit each other and maps of the sizes {sizes}"
            )
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    # In grid_sample's coordinates, -1 and 1 are the borders of the map
    grids = (2 * locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)  # (B * M, Q, L, P, 2)
    weights = weights.to(dtype).transpose(1, 2).reshape(batch * heads, 1, queries, -1)

    sampled = []
    start = 0
    for level, (height, width) in enumerate(sizes):
        level_values = values[:, start : start + height * width]
        start += height * width
        maps = level_values.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        with torch.autocast(values.device.type, enabled=False):
            sampled.append(
                F.grid_sample(
                    maps.to(dtype),
                    grids[:, :, level],
                    mode="bilinear",
                    padding_mode="zeros",
                    align_corners=False,
                )
            )
    # (B * M, D, Q, L * P) -> (B, M * D, Q)
    total = (torch.cat(sampled, dim=-1) * weights).sum(-1).view(batch, heads * channels, queries)
    return total.transpose(1, 2).to(values.dtype)


class MultiScaleDeformableAttention(nn.Module):
    """Attention whose points and weights are linear functions of the queries."""

    def __init__(self, dim: int, *, num_heads: int = 8, num_levels: int = 3, num_points: int = 4):
        """
        Args:
            dim: channels of queries, maps and output.
            num_heads: number of heads, a divisor of ``dim``.
            num_levels: number of feature maps.
            num_points: points per head and feature map.
        """
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim is {dim}; it must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        points = num_heads * num_levels * num_points
        self.offsets = nn.Linear(dim, 2 * points)
        self.weights = nn.Linear(dim, points)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize so that point p of head m is p pixels away at the angle 2 pi m / M."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto a square
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * steps[:, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, queries: Tensor, reference: Tensor, values: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """
        Args:
            queries: (B, Q, dim) float.
            reference: (Q, 2) float, (x, y) in [0, 1], the origin of the offsets of each query.
            values: (B, S, dim) float, the maps of all levels, each row by row.
            sizes: (height, width) of each level.

        Returns:
            (B, Q, dim).
        """
        batch, num_queries, _ = queries.shape
        grouped = (batch, num_queries, self.num_heads, self.num_levels, self.num_points)
        # Offsets are in pixels of their level
        extent = reference.new_tensor([[width, height] for height, width in sizes])
        offsets = self.offsets(queries).view(*grouped, 2) / extent[:, None]
        locations = reference[:, None, None, None] + offsets
        weights = self.weights(queries).view(*grouped[:3], -1).softmax(-1).view(grouped)
        heads = self.value(values).unflatten(-1, (self.num_heads, -1))
        return self.out(multi_scale_deformable_attention(heads, sizes, locations, weights))
