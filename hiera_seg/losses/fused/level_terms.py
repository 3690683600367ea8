"""Weigh the pixels of a loss that averages per level: what level_ce and marginal_ce share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.losses.checks import as_node_weights, check_logits, tree_text
from hiera_seg.losses.fused.tiles import (
    Buffers,
    half_precision_scale,
    loss_dtype,
    sum_over_pixels,
)
from hiera_seg.losses.labels import label_index
from hiera_seg.losses.normalizers import level_normalizers, reciprocal_or_zero


class LevelTerms:
    """The terms of all levels of a batch; subclasses define `tile`.

    Attributes:
        hierarchy: the tree.
        tree: its tables.
        pixel_weights: for each level (N + 1,), the weight of a pixel by its label; None for 0.
        scale: scalar that the sum of all terms is multiplied by.
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        hierarchy: Hierarchy,
        *,
        level_weights: Sequence[float] | None,
        ignore_label: int,
        node_weights: Sequence[float] | Tensor | None,
        valid_count: float | Tensor | None,
    ):
        """
        Args:
            logits, labels, hierarchy, level_weights, ignore_label, node_weights, valid_count: as in
                `level_ce_loss`.
        """
        check_logits(logits, labels, hierarchy)
        weights = _level_weights(level_weights, hierarchy)
        self.hierarchy, self.logits = hierarchy, logits
        self.index = label_index(labels, hierarchy, ignore_label)
        self.tree = TreeIndex.of(hierarchy, logits.device)
        self.buffers = Buffers()
        normalizers = level_normalizers(valid_count, self.index, hierarchy)
        normalizers = normalizers.to(loss_dtype(logits))
        # Each level has its own normalizer. The largest is applied at the end, so that the
        # gradient that is kept does not underflow in half precision.
        relative = reciprocal_or_zero(normalizers) * normalizers.max()
        factors = [
            relative[level] * weight if weight else None for level, weight in enumerate(weights)
        ]
        total = sum((x for x in factors if x is not None), normalizers.new_zeros(()))
        if node_weights is not None:
            node_weights = as_node_weights(node_weights, hierarchy, normalizers)
            total = total * node_weights.abs().max()
        large = half_precision_scale(total)
        self.scale = reciprocal_or_zero(normalizers.max()) * large
        self.pixel_weights: list[Tensor | None] = []
        for factor, level in zip(factors, self.tree.levels, strict=True):
            weight = None if factor is None else level.reached * (factor / large)
            if weight is not None and node_weights is not None:
                weight = weight * node_weights[level.nodes][level.target]
            self.pixel_weights.append(weight)

    def sum(self) -> Tensor:
        """Return the scaled sum of all terms."""
        return sum_over_pixels(self.logits, self.index, self.tile, scale=self.scale)

    def tile(
        self, logits: Tensor, index: Tensor, factor: Tensor, out: Tensor | None, exact: bool
    ) -> Tensor:
        """Return the sum of all terms of a tile, and write its gradient: see `tiles.Tile`."""
        raise NotImplementedError


def _level_weights(level_weights: Sequence[float] | None, hierarchy: Hierarchy) -> list[float]:
    if isinstance(level_weights, Tensor):
        level_weights = level_weights.tolist()
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
