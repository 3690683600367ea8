"""Compute the terms of tree_min and bce: one binary term per node, positive along the label's path.

The minimum over ancestors and the maximum over descendants each *are* one of the logits. The
tree-min loss is therefore a weighted sum of binary terms on single logits, in which a node counts
for itself and for every node that takes its score: comparisons alone determine those weights, and
value and gradient follow from one pass of the binary term.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex, take_nodes
from hiera_seg.layers.tree_ops import descendant_max
from hiera_seg.losses.checks import as_node_weights, check_logits, check_normalize, check_number
from hiera_seg.losses.fused import kernel
from hiera_seg.losses.fused.tiles import half_precision_scale, loss_dtype, sum_over_pixels
from hiera_seg.losses.labels import label_index
from hiera_seg.losses.normalizers import pixel_normalizer, reciprocal_or_zero


class NodeTerms:
    """The binary terms of all nodes of a batch.

    Attributes:
        path: int64 (num_levels, N + 1), the positive nodes of each label from the top down.
        positive: (num_levels, N + 1), their weights.
        negative: (N, N + 1), the weights of the negative nodes of each label.
        scale: scalar that the sum of all terms is multiplied by, one over the normalizer.
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        hierarchy: Hierarchy,
        *,
        consistent: bool,
        gamma: float,
        normalize: str,
        ignore_label: int,
        node_weights: Sequence[float] | Tensor | None,
        valid_count: float | Tensor | None,
    ):
        """
        Args:
            logits, labels, hierarchy, gamma, normalize, ignore_label, node_weights, valid_count:
                as in `tree_min_loss`.
            consistent: whether scores are taken from ancestors and descendants (tree_min) or are
                each node's own (bce).
        """
        check_logits(logits, labels, hierarchy)
        check_normalize(normalize)
        check_number("gamma", gamma, minimum=0)
        self.hierarchy, self.gamma, self.consistent = hierarchy, gamma, consistent
        self.logits = logits
        self.index = label_index(labels, hierarchy, ignore_label)
        tree = TreeIndex.of(hierarchy, logits.device)
        dtype = loss_dtype(logits)

        divisor = {
            "level_mean": tree.level_size,
            "node_mean": torch.full_like(tree.level_size, hierarchy.num_nodes),
            "sum": torch.ones_like(tree.level_size),
        }[normalize]
        weight = 1 / divisor.to(dtype)
        normalizer = pixel_normalizer(valid_count, self.index, hierarchy)
        self.scale = reciprocal_or_zero(normalizer.to(dtype))
        if node_weights is not None:  # without them, no weight is too large for half precision
            weight = weight * as_node_weights(node_weights, hierarchy, weight)
            large = half_precision_scale(weight.abs().sum())
            weight, self.scale = weight / large, self.scale * large
        with_void = torch.cat([weight, weight.new_zeros(1)])
        self.path = tree.path
        self.positive = torch.where(tree.on_path, with_void[tree.path], 0.0)
        self.negative = tree.negative * weight[:, None]

    def sum(self) -> Tensor:
        """Return the scaled sum of all terms, by a kernel if there is one that fits."""
        if kernel.fits(self.logits, self.hierarchy):
            return kernel.FusedSum.apply(self.logits, self.index, self.fused, self.scale)
        return sum_over_pixels(self.logits, self.index, self.tile, scale=self.scale)

    def fused(self, logits: Tensor, index: Tensor, gradient: Tensor | None) -> Tensor:
        """Return the sum of all terms and write the gradient: see `kernel.launch`."""
        return kernel.launch(self, logits, index, gradient)

    def tile(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of all terms of a tile of pixels, and its gradient.

        Args:
            logits: (N, P).
            index: int64 (P,), N for void.
        """
        weight = self.negative.index_select(1, index)
        if self.consistent:
            weight = _move_to_highest(weight, logits, self.hierarchy)
        terms, slope = binary_term(logits, self.gamma)
        total = terms.mul_(weight).sum()
        gradient = slope.mul_(weight)

        nodes = self.path.index_select(1, index)
        values = logits.gather(0, nodes)
        lower = None
        if self.consistent:
            values, lower = _running_min(values)
        weight = self.positive.index_select(1, index)
        terms, slope = binary_term(-values, self.gamma)
        total = total + terms.mul_(weight).sum()
        slope = slope.mul_(weight).neg_()
        if lower is not None:
            slope = _move_to_lowest(slope, lower)
        # Negatives left 0 at the positive nodes. Bottom up: where a path repeats its last node,
        # that node's own slope is written after the zeros of the repetitions.
        for level in reversed(range(len(nodes))):
            gradient.scatter_(0, nodes[level : level + 1], slope[level : level + 1])
        return total, gradient


def binary_term(x: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Compute the focal binary cross entropy of a negative with logit x.

    It is ``s^g * -log(1 - s)`` with ``s = sigmoid(x)``. That of a positive is the same at -x.

    Args:
        x: logits of any shape.
        gamma: focal exponent g; 0 for plain cross entropy.

    Returns:
        (value, derivative with respect to x), each the shape of x, finite for any finite x.
    """
    score = x.sigmoid()
    other = 1 - score
    # -log(1 - s) = max(x, 0) - log(max(s, 1 - s)): the logarithm's argument never leaves
    # [1/2, 1], so nothing overflows. (log1p would be exact to more digits of values below 1e-7,
    # and takes 12 times as long on CPUs where it is not vectorised.)
    entropy = x.relu().sub_(torch.maximum(score, other).log_())
    if gamma == 0:
        return entropy, score
    focus = score * score if gamma == 2 else score.pow(gamma)
    slope = other.mul_(entropy).mul_(gamma).add_(score).mul_(focus)
    return entropy.mul_(focus), slope


def _move_to_highest(weight: Tensor, logits: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Move the weight of each node to the descendant that has the highest logit.

    Args:
        weight: (N, P), 0 for nodes that are not negative. Changed in place.
        logits: (N, P).

    Returns:
        (N, P) with the same sum for each pixel. Children that tie share the weight; a node that
        ties with its descendants keeps it.
    """
    highest = descendant_max(logits, hierarchy, dim=0)
    for level in TreeIndex.of(hierarchy, logits.device).inner_levels:
        own = take_nodes(weight, level.nodes, 0)
        best = take_nodes(highest, level.nodes, 0)
        passed = own * (take_nodes(logits, level.nodes, 0) < best)
        own -= passed  # a view: `weight` changes
        children = take_nodes(highest, level.children, 0)
        wins = torch.eq(children, best.index_select(0, level.child_parent)).to(weight.dtype)
        ties = torch.zeros_like(best).index_add_(0, level.child_parent, wins)
        share = wins.mul_((passed / ties.clamp_(min=1)).index_select(0, level.child_parent))
        if isinstance(level.children, slice):
            weight[level.children] += share
        else:
            weight.index_add_(0, level.children, share)
    return weight


def _running_min(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum from the top of the paths (num_levels, P) down to each level.

    Returns:
        ``(minima, lower)``, `lower` (num_levels, P) being 1 where a level's own value is the
        minimum. Where values tie, each node takes its own.
    """
    minima = [values[0]]
    lower = [torch.ones_like(values[0])]
    for value in values[1:]:
        lower.append((value <= minima[-1]).to(values.dtype))
        minima.append(torch.minimum(value, minima[-1]))
    return torch.stack(minima), torch.stack(lower)


def _move_to_lowest(slope: Tensor, lower: Tensor) -> Tensor:
    """Move each level's slope up the path to the level whose value was its minimum."""
    moved = []
    carried = torch.zeros_like(slope[0])
    for level in reversed(range(len(slope))):
        carried = carried + slope[level]
        own = carried * lower[level]
        moved.append(own)
        carried = carried - own
    return torch.stack(moved[::-1])
