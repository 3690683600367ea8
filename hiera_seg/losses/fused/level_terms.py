"""Compute the pixel weights of losses that are averaged per level (level_ce and marginal_ce)."""

import math
from collections.abc import Sequence

from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.checks import as_node_weights, tree_text
from hiera_seg.losses.fused.tiles import (
    Buffers,
    half_precision_scale,
    loss_dtype,
    sum_over_pixels,
)
from hiera_seg.losses.labels import LabelledLogits
from hiera_seg.losses.normalizers import level_normalizers, reciprocal_or_zero


class LevelTerms:
    """The terms of all levels of a batch; subclasses define `tile`."""

    def __init__(self, batch: LabelledLogits, pixel_weights: list[Tensor | None], scale: Tensor):
        """`pixel_weights` and `scale` are those of `level_factors`."""
        self.logits, self.index = batch.logits, batch.index
        self.hierarchy, self.tree = batch.hierarchy, batch.tree
        self.pixel_weights, self.scale = pixel_weights, scale
        self.buffers = Buffers()

    def sum(self) -> Tensor:
        """Return the scaled sum of all terms."""
        return sum_over_pixels(self.logits, self.index, self.tile, scale=self.scale)

    def tile(
        self, logits: Tensor, index: Tensor, factor: Tensor, out: Tensor | None, exact: bool
    ) -> Tensor:
        """Return the sum of all terms of a tile, and write its gradient: see `tiles.Tile`."""
        raise NotImplementedError


def level_factors(
    batch: LabelledLogits,
    level_weights: Sequence[float] | None,
    node_weights: Sequence[float] | Tensor | None,
    valid_count: float | Tensor | None,
) -> tuple[list[Tensor | None], Tensor]:
    """Return the weights of pixels and the factor of their sum, for options of `level_ce_loss`.

    Returns:
        For each level a table (N + 1,) with the weight of a pixel by its label, or None if the
        weight of the level is 0; and a scalar by which the sum of all terms is multiplied.
    """
    weights = _level_weights(level_weights, batch.hierarchy)
    normalizers = level_normalizers(valid_count, batch).to(loss_dtype(batch.logits))
    # Each level has its own normalizer. The largest is applied at the end, because the stored
    # gradient would underflow in half precision otherwise.
    relative = reciprocal_or_zero(normalizers) * normalizers.max()
    factors = [relative[level] * weight if weight else None for level, weight in enumerate(weights)]
    total = sum((x for x in factors if x is not None), normalizers.new_zeros(()))
    if node_weights is not None:
        node_weights = as_node_weights(node_weights, batch.hierarchy, normalizers)
        total = total * node_weights.abs().max()
    large = half_precision_scale(total)
    pixel_weights: list[Tensor | None] = []
    for factor, level in zip(factors, batch.tree.levels, strict=True):
        weight = None if factor is None else level.reached * (factor / large)
        if weight is not None and node_weights is not None:
            weight = weight * node_weights[level.nodes][level.target]
        pixel_weights.append(weight)
    return pixel_weights, reciprocal_or_zero(normalizers.max()) * large


def _level_weights(level_weights: Sequence[float] | None, hierarchy: Hierarchy) -> list[float]:
    weights = [] if level_weights is None else [float(weight) for weight in level_weights]
    if not weights:
        return [1.0] * hierarchy.num_levels
    if len(weights) != hierarchy.num_levels:
        raise ValueError(
            f"level_weights hold {len(weights)} weights; {tree_text(hierarchy)} needs "
            f"{hierarchy.num_levels}, one each for {', '.join(hierarchy.level_names)}"
        )
    if not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"level_weights must be finite and 0 or more, not {weights}")
    return weights
