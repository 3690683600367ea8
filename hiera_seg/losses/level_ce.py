"""Define the per-level cross entropy: one softmax among the nodes of each level."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import NodeIds, take_nodes
from hiera_seg.losses.fused.level_terms import LevelTerms, level_factors
from hiera_seg.losses.labels import LabelledLogits
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm, runs_eagerly


@runs_eagerly
def level_ce_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    level_weights: Sequence[float] | None = None,
    ignore_label: int = 255,
    node_weights: Sequence[float] | Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Compute the softmax cross entropy among the nodes of each level, summed over the levels.

    At each level the softmax is over ``hierarchy.level_nodes(level)``, where a leaf above the level
    represents itself. The mean is over the pixels whose label reaches the level (the label
    "vehicle" does not specify which vehicle), and 0 if there are none.

    Args:
        logits: (B, N, H, W) float, one channel per node. Half precision is computed in float32.
        labels: (B, H, W) int64 node ids, of leaves or inner nodes, or `ignore_label`.
        hierarchy: the tree.
        level_weights: one weight per level, coarse to fine; None or empty: all 1.
        ignore_label: the value of void in `labels`.
        node_weights: (N,) factors; the term of a pixel at a level is multiplied by that of its node
            at this level. They do not change the normalizer. Constants, without gradient.
        valid_count: the normalizer, in pixels: one number for all levels, or (num_levels,) as in
            `valid_pixels`; None to count the pixels of this batch.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path if no pixel is valid.

    Raises:
        ValueError: as `tree_min_loss`; or level weights that are not one per level, finite and 0 or
            more.
    """
    batch = LabelledLogits(logits, labels, hierarchy, ignore_label)
    return _LevelCETerms(
        batch, *level_factors(batch, level_weights, node_weights, valid_count)
    ).sum()


class _LevelCETerms(LevelTerms):
    def tile(
        self, logits: Tensor, index: Tensor, factor: Tensor, out: Tensor | None, exact: bool
    ) -> Tensor:
        total = logits.new_zeros(())
        levels = list(zip(self.tree.levels, self.pixel_weights, strict=True))
        if out is not None and not all(
            self._is_first(level.nodes) and weight is not None for level, weight in levels
        ):
            out.zero_()
        for level, pixel_weight in reversed(levels):
            if pixel_weight is None:
                continue
            weight = pixel_weight.index_select(0, index)
            target = level.target.index_select(0, index)[None]
            x = take_nodes(logits, level.nodes, 0)
            (share,) = self.buffers.take(1, len(x), logits)
            torch.sub(x, x.amax(0), out=share)
            picked = share.gather(0, target)
            mass = share.exp_().sum(0)
            total += mass.log().sub_(picked[0]).mul_(weight).sum()
            if out is None:
                continue
            share.scatter_(0, target, picked.exp_().sub_(mass))
            weight = weight.mul_(factor).div_(mass)
            if self._is_first(level.nodes):
                torch.mul(share, weight, out=out[level.nodes])
            else:
                out.index_add_(0, level.ids, share.mul_(weight))
        return total

    def _is_first(self, nodes: NodeIds) -> bool:
        """Return whether the nodes of a level get no slope from a finer one.

        An inner node belongs to one level only. All leaves belong to the last level, which comes
        first.
        """
        leaves = self.hierarchy.num_leaves
        return isinstance(nodes, slice) and (nodes.start >= leaves or nodes == slice(0, leaves))


@HIERA_LOSSES.register(name="level_ce")
class LevelCELoss(LossTerm, function=level_ce_loss):
    """`level_ce_loss` as a module."""

    normalizer = "levels"
    decoding = "level_softmax"
