"""What tree_min and bce have in common: one binary term a node, positive along the label's path.

The minimum over ancestors and the maximum over descendants each *are* one of the logits. So the
tree-min loss is a weighted sum of binary terms on single logits, in which a node counts for itself
and for every node that takes its score: finding those weights needs comparisons alone, and value
and gradient then follow from one pass of the binary term.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_ops import descendant_max, take_nodes, tree_tables
from hiera_seg.losses import node_kernel
from hiera_seg.losses.checks import (
    as_node_weights,
    check_logits,
    check_normalize,
    check_number,
    label_index,
    pixel_count,
    reciprocal_or_zero,
)
from hiera_seg.losses.label_tables import node_tables
from hiera_seg.losses.tiles import excess, loss_dtype, sum_over_pixels


def node_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    consistent: bool,
    gamma: float,
    normalize: str,
    ignore_label: int,
    node_weights: Tensor | None,
    valid_count: float | Tensor | None,
) -> Tensor:
    """Sum the binary terms of all nodes; see `tree_min_loss` for the arguments.

    Args:
        consistent: take scores from ancestors and descendants (tree_min) or each node's own (bce).
    """
    check_logits(logits, labels, hierarchy)
    check_normalize(normalize)
    check_number("gamma", gamma, minimum=0)
    dtype = loss_dtype(logits)
    node_weight = _node_weight(hierarchy, normalize, node_weights, dtype, logits.device)
    index = label_index(labels, hierarchy, ignore_label)
    scale = reciprocal_or_zero(pixel_count(valid_count, index, hierarchy).to(dtype))
    if node_weights is not None:  # the tree alone makes none too large
        too_much = excess(node_weight.abs().sum())
        node_weight, scale = node_weight / too_much, scale * too_much

    tables = node_tables(hierarchy, logits.device)
    below = torch.cat([node_weight, node_weight.new_zeros(1)])  # void weighs nothing
    terms = {
        "hierarchy": hierarchy,
        "path": tables.path,
        "positive": torch.where(tables.on_path, below[tables.path], 0.0),
        "negative": tables.negative * node_weight[:, None],
        "gamma": gamma,
        "consistent": consistent,
    }
    use_kernel = node_kernel.fits(logits, hierarchy)
    whole_loss = partial(node_kernel.fused_sum, **terms) if use_kernel else None
    tile_loss = partial(_tile_terms, **terms)
    return sum_over_pixels(logits, index, tile_loss, whole_loss, scale=scale)


def _node_weight(
    hierarchy: Hierarchy,
    normalize: str,
    node_weights: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """(N,) what a node's term is multiplied by, the number of pixels left aside."""
    level_size = node_tables(hierarchy, device).level_size
    if normalize == "level_mean":
        divisor = level_size
    elif normalize == "node_mean":
        divisor = torch.full_like(level_size, hierarchy.num_nodes)
    else:
        divisor = torch.ones_like(level_size)
    weight = 1 / divisor.to(dtype)
    if node_weights is None:
        return weight
    return weight * as_node_weights(node_weights, hierarchy, weight)


def binary_term(x: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal binary cross entropy of a negative with logit x: s^g * -log(1 - s), s = sigmoid(x).

    That of a positive is the same at -x.

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


def _tile_terms(
    logits: Tensor,
    index: Tensor,
    *,
    hierarchy: Hierarchy,
    path: Tensor,
    positive: Tensor,
    negative: Tensor,
    gamma: float,
    consistent: bool,
) -> tuple[Tensor, Tensor]:
    """Sum and gradient of all terms of a tile of pixels; see `TileLoss`.

    Args:
        logits: (N, P).
        index: int64 (P,), N for void.
        path: int64 (num_levels, N + 1), the positive nodes of each label from the top down.
        positive: (num_levels, N + 1), their weights.
        negative: (N, N + 1), the weights of the negative nodes of each label.
    """
    weight = negative.index_select(1, index)
    if consistent:
        weight = _move_to_highest(weight, logits, hierarchy)
    terms, slope = binary_term(logits, gamma)
    total = terms.mul_(weight).sum()
    gradient = slope.mul_(weight)

    nodes = path.index_select(1, index)
    values = logits.gather(0, nodes)
    lower = None
    if consistent:
        values, lower = _running_min(values)
    weight = positive.index_select(1, index)
    terms, slope = binary_term(-values, gamma)
    total = total + terms.mul_(weight).sum()
    slope = slope.mul_(weight).neg_()
    if lower is not None:
        slope = _move_to_lowest(slope, lower)
    # Negatives left 0 at the positive nodes. Bottom up, so that where a path repeats its last
    # node, that node's own slope is written after the zeros of the repetitions.
    for level in reversed(range(len(nodes))):
        gradient.scatter_(0, nodes[level : level + 1], slope[level : level + 1])
    return total, gradient


def _move_to_highest(weight: Tensor, logits: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Move the weight of each node to the descendant that has the highest logit.

    Args:
        weight: (N, P), not negative nodes: 0. Changed in place.
        logits: (N, P).

    Returns:
        (N, P), the same sum for each pixel. Children that tie share; a node that ties with its
        descendants keeps its weight.
    """
    highest = descendant_max(logits, hierarchy, dim=0)
    for level in tree_tables(hierarchy, logits.device).inner_levels:
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
    """Minimum from the top of the paths (num_levels, P) down to each level.

    Returns:
        (minima, lower), lower (num_levels, P) 1 where a level's own value is the minimum. Where
        values tie, each node takes its own.
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
