"""Compute the terms of tree_min and bce: one binary term per node, positive along the label's path.

Each minimum over ancestors and each maximum over descendants is one of the logits. A negative node
has only negative descendants; its maximum therefore does not depend on the label. A tile computes
the maxima of all nodes, masks those on the label's path and those that are unknown, and appends one
row per level for the positive nodes. One pass over these rows gives the values and slopes of the
binary terms. Comparisons then move each slope to the node whose logit was taken.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from hiera_seg.layers.tree_index import TreeIndex, take_nodes
from hiera_seg.layers.tree_ops import descendant_max
from hiera_seg.losses.checks import as_node_weights, check_number
from hiera_seg.losses.fused import kernel
from hiera_seg.losses.fused.tiles import (
    Buffers,
    half_precision_scale,
    is_on_cpu,
    loss_dtype,
    sum_over_pixels,
)
from hiera_seg.losses.labels import LabelledLogits
from hiera_seg.losses.normalizers import pixel_normalizer, reciprocal_or_zero

NORMALIZATIONS = ("level_mean", "node_mean", "sum")


def node_factors(
    batch: LabelledLogits,
    normalize: str,
    node_weights: Sequence[float] | Tensor | None,
    valid_count: float | Tensor | None,
) -> tuple[Tensor | None, Tensor]:
    """Return the weights of nodes and the factor of their sum, for options of `tree_min_loss`.

    Returns:
        A tensor (N,) with the weight of each node's term, or None if all are 1; and a scalar by
        which the sum is multiplied.
    """
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"unknown normalize {normalize!r}; it must be one of {NORMALIZATIONS}")
    dtype = loss_dtype(batch.logits)
    scale = reciprocal_or_zero(pixel_normalizer(valid_count, batch).to(dtype))
    weight = None
    if normalize == "node_mean":
        scale = scale / batch.hierarchy.num_nodes
    elif normalize == "level_mean":
        weight = 1 / batch.tree.level_size.to(dtype)
    if node_weights is not None:  # without them, no weight is too large for half precision
        given = as_node_weights(node_weights, batch.hierarchy, scale)
        weight = given if weight is None else weight * given
        large = half_precision_scale(weight.sum())
        weight, scale = weight / large, scale * large
    return weight, scale


class NodeTerms:
    """The binary terms of all nodes of a batch.

    A void pixel has the label N, which has no node on its path and all nodes below it (see
    `TreeIndex`): all of its terms and slopes are 0.
    """

    def __init__(
        self,
        batch: LabelledLogits,
        weight: Tensor | None,
        scale: Tensor,
        *,
        gamma: float = 0.0,
        consistent: bool = True,
    ):
        """
        Args:
            weight, scale: as from `node_factors`.
            gamma: the focal exponent.
            consistent: whether scores are taken from ancestors and descendants (tree_min) or are
                each node's own (bce).
        """
        check_number("gamma", gamma, minimum=0)
        self.logits, self.index = batch.logits, batch.index
        self.hierarchy, self.tree = batch.hierarchy, batch.tree
        self.weight, self.scale = weight, scale
        self.gamma, self.consistent = float(gamma), consistent
        self.buffers = Buffers()
        self.end = torch.full_like(scale, 1 / gamma if gamma else 0)
        # The kinds of labels that occur; tiles skip the steps that none of them needs.
        void = self.hierarchy.num_nodes
        self.any_void = self.any_unknown = self.any_off_path = True
        if batch.pixels is not None:
            present = batch.pixels[:void] > 0
            self.any_void = bool(batch.pixels[void])
            self.any_unknown = bool((present & self.tree.has_unknown[:void]).any())
            self.any_off_path = bool((present & self.tree.off_path[:, :void]).any())

    def sum(self) -> Tensor:
        """Return the scaled sum of all terms, computed by the GPU kernel if it supports them."""
        fused = partial(kernel.launch, self) if kernel.fits(self.logits, self.hierarchy) else None
        return sum_over_pixels(self.logits, self.index, self.tile, scale=self.scale, fused=fused)

    def tile(
        self, logits: Tensor, index: Tensor, factor: Tensor, out: Tensor | None, exact: bool
    ) -> Tensor:
        """Return the sum of all terms of a tile, and write its gradient: see `tiles.Tile`."""
        tree, num_nodes = self.tree, len(logits)
        rows = num_nodes + self.hierarchy.num_levels
        x, *buffers = self.buffers.take(4, rows, logits)
        nodes_x, paths_x = x[:num_nodes], x[num_nodes:]
        nodes_x.copy_(logits)
        path = tree.path.index_select(1, index)
        torch.gather(nodes_x, 0, path, out=paths_x)
        higher = _running_min_(paths_x) if self.consistent else ()
        paths_x.neg_()
        own = _take_highest_(nodes_x, tree) if self.consistent else ()

        def hide(values: Tensor) -> None:
            values[:num_nodes].scatter_(0, path, 0)
            if self.any_void:
                values.mul_(tree.is_known.index_select(0, index))
            if self.any_unknown:
                self._hide_unknown_(values[:num_nodes], nodes_x, index)
            if self.any_off_path:
                values[num_nodes:].masked_fill_(tree.off_path.index_select(1, index), 0)

        weight = None
        if self.weight is not None:
            weight = self.weight[path], self.weight[:, None]
        total, slope = self._terms(x, hide, weight, buffers, exact)
        if out is None:
            return total
        slopes, up = slope[:num_nodes], slope[num_nodes:]
        if self.consistent:
            _move_to_highest_(slopes, nodes_x, own, tree, buffers[1])
            _move_to_lowest_(up, higher)
        # Negatives left 0 on the path. Bottom up: where a path repeats its last node, its own
        # slope is written after the zeros of the repetitions.
        step = 1 if self.any_off_path else len(path)
        for level in range(len(path) - step, -1, -step):
            levels = slice(level, level + step)
            slopes.scatter_(0, path[levels], up[levels].neg_())
        torch.mul(slopes, factor * self.gamma if self.gamma else factor, out=out)
        return total

    def _terms(
        self,
        x: Tensor,
        hide: Callable[[Tensor], None],
        weight: tuple[Tensor, Tensor] | None,
        buffers: Sequence[Tensor],
        exact: bool,
    ) -> tuple[Tensor, Tensor]:
        """Sum the weighted binary terms of rows, and compute their slopes divided by gamma.

        The term at logit x is ``s^g * -log(1 - s)`` with ``s = sigmoid(x)``.

        Args:
            x: (rows, P).
            hide: sets values (rows, P) to 0 where there is no term.
            weight: the weights of the last rows and of all others; None for 1.
            buffers: three matrices like x. The second is not used by what is returned.
            exact: whether exp(x) may overflow.
        """
        score, entropy, slope = buffers
        # With u = 1 + exp(x): s = exp(x) / u and -log(1 - s) = log(u). (log1p would be exact to
        # more digits of values below 1e-7, and takes several times as long.)
        torch.exp(x.clamp(max=80) if exact else x, out=score)
        hide(score)  # not x by -inf, for which exp is slow
        torch.add(score, 1, out=entropy)
        score.div_(entropy)
        entropy.log_()
        if exact:
            hide(torch.maximum(entropy, x, out=entropy))
        if self.gamma == 0:
            slope, factors = score, (score, entropy)
        else:
            # The derivative is g s^g (s / g + (1 - s) * -log(1 - s)).
            torch.lerp(entropy, self.end, score, out=slope)
            focus = score.mul_(score) if self.gamma == 2 else score.pow_(self.gamma)
            factors = (focus,)
        if weight is not None:
            of_paths, of_nodes = weight
            for values in factors:
                values[: len(of_nodes)].mul_(of_nodes)
                values[len(of_nodes) :].mul_(of_paths)
        if self.gamma:
            slope.mul_(focus)
            entropy.mul_(focus)
        return entropy.sum(), slope

    def _hide_unknown_(self, values: Tensor, x: Tensor, index: Tensor) -> None:
        """Set values (N, P) to 0 for the nodes below inner labels.

        Where their logits x are NaN or infinite, the value is NaN, so the problem stays visible.
        """
        if is_on_cpu(x):
            pixels = self.tree.has_unknown.index_select(0, index).nonzero()[:, 0]
        else:
            pixels = torch.arange(len(index), device=x.device)
        below = self.tree.is_below(self.tree.nodes, index.index_select(0, pixels))
        hidden = x.index_select(1, pixels).mul_(0)
        values.index_copy_(1, pixels, torch.where(below, hidden, values.index_select(1, pixels)))


@lru_cache(maxsize=1)
def _allow_index_reduce() -> None:
    """Call index_reduce_ once to suppress its only warning, that its API may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.ones(1)
        one.index_reduce_(0, torch.zeros(1, dtype=torch.int64), one.clone(), "amax")


def _take_highest_(x: Tensor, tree: TreeIndex) -> list[Tensor]:
    """Replace the logits (N, P) of inner nodes by the maximum over their descendants.

    Returns:
        The logits that inner nodes had, per level, coarse to fine.
    """
    own = [take_nodes(x, level.nodes, 0).clone() for level in tree.inner_levels]
    if not is_on_cpu(x):  # index_reduce_ is not deterministic there
        x.copy_(descendant_max(x, tree.hierarchy, dim=0))
        return own
    _allow_index_reduce()
    for level in reversed(tree.inner_levels):
        children = take_nodes(x, level.children, 0)
        take_nodes(x, level.nodes, 0).index_reduce_(0, level.child_parent, children, "amax")
    return own


def _move_to_highest_(
    slope: Tensor, highest: Tensor, own: Sequence[Tensor], tree: TreeIndex, buffer: Tensor
) -> None:
    """Move the slope of each inner node to the descendant whose logit it took.

    Children that tie share the slope; a node that ties with its descendants keeps it.

    Args:
        slope: (N, P), changed in place.
        highest: (N, P), the maxima.
        own: per level, the logits of the inner nodes.
        buffer: matrix of at least N rows of P values.
    """
    for level, logits in zip(tree.inner_levels, own, strict=True):
        best = take_nodes(highest, level.nodes, 0)
        slopes = take_nodes(slope, level.nodes, 0)
        passed = torch.lt(logits, best, out=logits).mul_(slopes)
        slopes.sub_(passed)  # a view: `slope` changes
        wins = buffer[: len(level.child_parent)]
        torch.index_select(best, 0, level.child_parent, out=wins)
        # Comparing into bool is slower.
        torch.eq(take_nodes(highest, level.children, 0), wins, out=wins)
        count = torch.zeros_like(best).index_add_(0, level.child_parent, wins)
        share = passed.div_(count.clamp_(min=1)).index_select(0, level.child_parent)
        if isinstance(level.children, slice):
            slope[level.children].addcmul_(wins, share)
        else:
            slope.index_add_(0, level.children, wins.mul_(share))


def _running_min_(values: Tensor) -> list[Tensor]:
    """Replace values along paths (num_levels, P) by the minimum from the top down to each level.

    Returns:
        For each level but the first, (P,), 1 where its own value is above the minimum. Where values
        tie, each node takes its own.
    """
    minimum, *below = values.unbind()
    higher = []
    for value in below:
        higher.append(torch.gt(value, minimum, out=torch.empty_like(value)))
        minimum = torch.minimum(value, minimum, out=value)
    return higher


def _move_to_lowest_(slope: Tensor, higher: Sequence[Tensor]) -> None:
    """Move each level's slope up the path to the level whose value was its minimum."""
    slopes = slope.unbind()
    for level in range(len(slopes) - 1, 0, -1):
        passed = higher[level - 1].mul_(slopes[level])
        slopes[level].sub_(passed)
        slopes[level - 1].add_(passed)
