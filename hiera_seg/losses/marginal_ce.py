"""Define the marginal cross entropy: one softmax over the leaves, summed up the tree."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.fused.level_terms import LevelTerms, level_factors
from hiera_seg.losses.labels import LabelledLogits
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm, runs_eagerly


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
    """Compute the cross entropy of node probabilities that are sums of a softmax over the leaves.

    The loss at a level is ``-log p(the label's node)``, with ``log p(v) = logsumexp over the leaves
    of v - logsumexp over all leaves``, averaged over the pixels whose label reaches the level. The
    levels are summed. Only the channels of leaves are read. If only the level of the leaves has a
    weight, this is flat cross entropy.

    Args:
        logits, labels, hierarchy, level_weights, ignore_label, node_weights, valid_count: as in
            `level_ce_loss`.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path if no pixel is valid.

    Raises:
        ValueError: as `level_ce_loss`.
    """
    batch = LabelledLogits(logits, labels, hierarchy, ignore_label)
    return _MarginalCETerms(
        batch, *level_factors(batch, level_weights, node_weights, valid_count)
    ).sum()


class _MarginalCETerms(LevelTerms):
    """The terms of all levels.

    d -log p(v) / dz = softmax over all leaves - softmax over the leaves of v.
    """

    def tile(
        self, logits: Tensor, index: Tensor, factor: Tensor, out: Tensor | None, exact: bool
    ) -> Tensor:
        num_leaves = self.hierarchy.num_leaves
        leaves, slopes = logits[:num_leaves], None
        if out is not None:
            slopes = out[:num_leaves]
            out[num_leaves:].zero_()
        compute = self._from_logarithms if exact else self._from_shares
        return compute(leaves, index, factor, slopes)

    def _from_shares(
        self, leaves: Tensor, index: Tensor, factor: Tensor, out: Tensor | None
    ) -> Tensor:
        """Compute the terms with one exponential per leaf; NaN if a share is too small for this."""
        weights = self._weights(index)
        targets = [level.target.index_select(0, index)[None] for level in self.tree.levels]
        share, factors = self.buffers.take(2, len(leaves), leaves)
        torch.sub(leaves, leaves.amax(0), out=share)
        picked = share.gather(0, targets[-1])[0]
        mass = share.exp_().sum(0)
        total_weight = sum(weight for weight in weights if weight is not None)
        terms = mass.log().mul_(total_weight)
        # A leaf's slope is its share times a factor that all leaves below a node have in common.
        common = (total_weight / mass)[None]
        for level, weight, target in zip(self.tree.levels[:-1], weights, targets, strict=False):
            common = common.index_select(0, level.place_above)
            if weight is None:
                continue
            masses = torch.zeros_like(common).index_add_(0, level.leaf_position, share)
            node_mass = masses.gather(0, target)
            if node_mass.amin() < 1e-30:
                return terms.new_tensor(torch.nan)
            terms.sub_(node_mass[0].log().mul_(weight))
            common.scatter_add_(0, target, (weight / node_mass).neg_())
        if weights[-1] is not None:
            terms.sub_(picked.mul_(weights[-1]))
        if out is not None:
            torch.index_select(
                common.mul_(factor), 0, self.tree.levels[-1].place_above, out=factors
            )
            torch.mul(share, factors, out=out)
            if weights[-1] is not None:
                out.scatter_add_(0, targets[-1], (weights[-1] * factor).neg_()[None])
        return terms.sum()

    def _from_logarithms(
        self, leaves: Tensor, index: Tensor, factor: Tensor, out: Tensor | None
    ) -> Tensor:
        """Compute the terms with one softmax per level."""
        log_probability = leaves.log_softmax(0)
        total = leaves.new_zeros(())
        slope = torch.zeros_like(leaves)
        total_weight = torch.zeros_like(leaves[0])
        for level, weight in zip(self.tree.levels, self._weights(index), strict=True):
            if weight is None:
                continue
            # Where the label does not reach the level, all leaves are kept, and the term is log 1.
            known = level.reached.index_select(0, index)
            target = level.target.index_select(0, index)
            outside = known & (level.leaf_position[:, None] != target)
            inside = log_probability.masked_fill(outside, -torch.inf)
            total -= (inside.logsumexp(0) * weight).sum()
            slope -= inside.softmax(0) * weight
            total_weight += weight
        if out is not None:
            torch.mul(slope.addcmul_(log_probability.exp_(), total_weight), factor, out=out)
        return total

    def _weights(self, index: Tensor) -> list[Tensor | None]:
        return [
            None if weight is None else weight.index_select(0, index)
            for weight in self.pixel_weights
        ]


@HIERA_LOSSES.register(name="marginal_ce")
class MarginalCELoss(LossTerm, function=marginal_ce_loss):
    """`marginal_ce_loss` as a module."""

    normalizer = "levels"
    decoding = "marginal"
