"""Define the marginal cross entropy: one softmax over the leaves, summed up the tree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.compiling import runs_eagerly
from hiera_seg.losses.fused.level_terms import LevelTerms
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm


@runs_eagerly
def marginal_ce_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    level_weights: Sequence[float] | None = None,
    ignore_label: int = 255,
    node_weights: Sequence[float] | Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Compute the cross entropy of a softmax over the leaves, where nodes sum their leaves.

    The loss at a level is ``-log p(the label's node)``, with ``log p(v) = logsumexp over the leaves
    of v - logsumexp over all leaves``, averaged over the pixels whose label reaches the level. The
    levels are summed. Only the channels of leaves are read. With the weight of the leaves' level
    alone it is flat cross entropy.

    Args:
        logits, labels, hierarchy, level_weights, ignore_label, node_weights, valid_count: as in
            `level_ce_loss`.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path if no pixel is valid.

    Raises:
        ValueError: as `level_ce_loss`.
    """
    return _MarginalCETerms(
        logits,
        labels,
        hierarchy,
        level_weights=level_weights,
        ignore_label=ignore_label,
        node_weights=node_weights,
        valid_count=valid_count,
    ).sum()


class _MarginalCETerms(LevelTerms):
    def tile(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        num_leaves = self.hierarchy.num_leaves
        log_probability = logits[:num_leaves].log_softmax(0)
        total = logits.new_zeros(())
        gradient = torch.zeros_like(logits)
        leaves = gradient[:num_leaves]
        all_weights = torch.zeros_like(logits[:1])
        # d -log p(v) / dz = softmax over all leaves - softmax over the leaves of v. The first is
        # the same at all levels and is added at the end.
        *coarse_weights, leaf_weight = self.pixel_weights
        for standing, pixel_weight in zip(self.tree.standing, coarse_weights, strict=False):
            if pixel_weight is None:
                continue
            weight = pixel_weight.index_select(0, index)[None]
            all_weights += weight
            outside = self.tree.outside.index_select(1, standing.index_select(0, index))
            inside = log_probability + outside
            top = inside.amax(0, keepdim=True)
            share = inside.sub_(top).exp_()
            mass = share.sum(0, keepdim=True)
            total = total - ((mass.log() + top) * weight).sum()
            leaves.sub_(share.mul_(weight / mass))
        if leaf_weight is not None:
            weight = leaf_weight.index_select(0, index)[None]
            all_weights += weight
            target = self.tree.levels[-1].target.index_select(0, index)[None]
            total = total - (log_probability.gather(0, target) * weight).sum()
            leaves.scatter_(0, target, leaves.gather(0, target) - weight)
        leaves.addcmul_(log_probability.exp_(), all_weights)
        return total, gradient


@HIERA_LOSSES.register(name="marginal_ce")
class MarginalCELoss(LossTerm, function=marginal_ce_loss):
    """`marginal_ce_loss` as a module."""

    normalizer = "levels"
    decoding = "marginal"
