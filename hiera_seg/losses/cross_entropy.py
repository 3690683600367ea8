"""The baselines beside tree-min: binary, per-level and marginal cross entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_ops import take_nodes
from hiera_seg.losses.checks import (
    as_node_weights,
    check_logits,
    check_normalize,
    label_index,
    level_counts,
    reciprocal_or_zero,
    register_node_weights,
    tree_text,
)
from hiera_seg.losses.compiling import runs_eagerly
from hiera_seg.losses.label_tables import LevelTable, level_tables, outside_penalty
from hiera_seg.losses.node_terms import node_loss
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.tiles import TileLoss, excess, loss_dtype, sum_over_pixels


@runs_eagerly
def bce_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    normalize: str = "level_mean",
    ignore_label: int = 255,
    node_weights: Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of every node by itself, the tree used for the targets alone.

    ``sum over nodes of -l log s - (1 - l) log(1 - s)``, with ``l`` 1 for the label and its
    ancestors; the nodes below an inner label are unknown and add 0.

    Args:
        logits: as all others, see `tree_min_loss`.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path where no pixel is
        valid.

    Raises:
        ValueError: as `tree_min_loss`.
    """
    return node_loss(
        logits,
        labels,
        hierarchy,
        consistent=False,
        gamma=0.0,
        normalize=normalize,
        ignore_label=ignore_label,
        node_weights=node_weights,
        valid_count=valid_count,
    )


@runs_eagerly
def level_ce_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    level_weights: Sequence[float] | None = None,
    ignore_label: int = 255,
    node_weights: Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Softmax cross entropy among the nodes of each level, summed over the levels.

    At each level the softmax runs over ``hierarchy.level_nodes(level)``, where a leaf above the
    level stands for itself, and the mean over the pixels whose label reaches the level (a label
    "vehicle" does not say which vehicle); 0 if there is none.

    Args:
        logits: (B, N, H, W) float, one channel a node. Half precision is computed in float32.
        labels: (B, H, W) int64 node ids, of leaves or inner nodes, or `ignore_label`.
        hierarchy: the tree.
        level_weights: one weight a level, coarse to fine; None or empty: all 1.
        ignore_label: the value of void in `labels`.
        node_weights: (N,) multiplies the terms of the pixels whose node at the level it is;
            denominators stay the same. A constant: gets no gradient.
        valid_count: pixels to divide by instead of the batch's own: one number for all levels, or
            (num_levels,) as in `valid_pixels`.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path where no pixel is
        valid.

    Raises:
        ValueError: as `tree_min_loss`; or weights that are not one a level, 0 or more.
    """

    def make(tables: tuple[LevelTable, ...], pixel_weights: list[Tensor | None]) -> TileLoss:
        return partial(_level_tile, tables=tables, pixel_weights=pixel_weights)

    return _loss_by_level(
        logits, labels, hierarchy, level_weights, ignore_label, node_weights, valid_count, make
    )


@runs_eagerly
def marginal_ce_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    level_weights: Sequence[float] | None = None,
    ignore_label: int = 255,
    node_weights: Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Cross entropy of a softmax over the leaves, a node's probability being that of its leaves.

    At each level ``-log p(the label's node)``, ``log p(v) = logsumexp over the leaves of v -
    logsumexp over all leaves``, mean over the pixels whose label reaches the level; summed over
    the levels. Only the leaves' channels are read. With leaf weight only it is the plain flat
    cross entropy.

    Args:
        logits: as all others, see `level_ce_loss`.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path where no pixel is
        valid.

    Raises:
        ValueError: as `level_ce_loss`.
    """

    def make(tables: tuple[LevelTable, ...], pixel_weights: list[Tensor | None]) -> TileLoss:
        outsides = [
            None if weight is None else outside_penalty(hierarchy, level, logits.device)
            for level, weight in enumerate(pixel_weights[:-1])
        ]
        return partial(
            _marginal_tile,
            num_leaves=hierarchy.num_leaves,
            leaf_target=tables[-1].target,
            outsides=outsides,
            pixel_weights=pixel_weights,
        )

    return _loss_by_level(
        logits, labels, hierarchy, level_weights, ignore_label, node_weights, valid_count, make
    )


def _loss_by_level(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    level_weights: Sequence[float] | None,
    ignore_label: int,
    node_weights: Tensor | None,
    valid_count: float | Tensor | None,
    make_tile_loss,
) -> Tensor:
    """Check the arguments, weigh the pixels at each level, and sum over the pixels."""
    check_logits(logits, labels, hierarchy)
    weights = _level_weights(level_weights, hierarchy)
    index = label_index(labels, hierarchy, ignore_label)
    counts = level_counts(valid_count, index, hierarchy).to(loss_dtype(logits))
    # Each level has its own denominator. The largest is taken out, so that the gradient that is
    # kept survives half precision.
    relative = reciprocal_or_zero(counts) * counts.max()
    factors = [relative[level] * weight if weight else None for level, weight in enumerate(weights)]
    total = sum((factor for factor in factors if factor is not None), counts.new_zeros(()))
    if node_weights is not None:
        node_weights = as_node_weights(node_weights, hierarchy, counts)
        total = total * node_weights.abs().max()
    too_much = excess(total)
    scale = reciprocal_or_zero(counts.max()) * too_much
    tables = level_tables(hierarchy, logits.device)
    pixel_weights = [
        None if factor is None else table.reached * (factor / too_much)
        for factor, table in zip(factors, tables, strict=True)
    ]
    if node_weights is not None:
        pixel_weights = [
            weight if weight is None else weight * node_weights[table.nodes][table.target]
            for weight, table in zip(pixel_weights, tables, strict=True)
        ]
    tile_loss = make_tile_loss(tables, pixel_weights)
    return sum_over_pixels(logits, index, tile_loss, scale=scale)


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


def _level_tile(
    logits: Tensor,
    index: Tensor,
    *,
    tables: tuple[LevelTable, ...],
    pixel_weights: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Sum and gradient of level_ce over a tile; see `TileLoss`.

    Args:
        tables: one a level.
        pixel_weights: one a level, (N + 1,) the weight of a pixel by its label; None for 0.
    """
    total = logits.new_zeros(())
    gradient = torch.zeros_like(logits)
    for table, pixel_weight in zip(tables, pixel_weights, strict=True):
        if pixel_weight is None:
            continue
        weight = pixel_weight.index_select(0, index)[None]
        target = table.target.index_select(0, index)[None]
        log_probability = take_nodes(logits, table.nodes, 0).log_softmax(0)
        total = total - (log_probability.gather(0, target) * weight).sum()
        slope = log_probability.exp_().mul_(weight)
        slope.scatter_(0, target, slope.gather(0, target) - weight)
        if isinstance(table.nodes, slice):
            gradient[table.nodes] += slope
        else:
            gradient.index_add_(0, table.nodes, slope)
    return total, gradient


def _marginal_tile(
    logits: Tensor,
    index: Tensor,
    *,
    num_leaves: int,
    leaf_target: Tensor,
    outsides: list[Tensor | None],
    pixel_weights: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Sum and gradient of marginal_ce over a tile; see `TileLoss`.

    Args:
        leaf_target: int64 (N + 1,), the leaf of each label; any where it is not reached.
        outsides: for each level but the last, `outside_penalty`; None for weight 0.
        pixel_weights: one a level, (N + 1,) the weight of a pixel by its label; None for 0.
    """
    log_probability = logits[:num_leaves].log_softmax(0)
    total = logits.new_zeros(())
    gradient = torch.zeros_like(logits)
    leaves = gradient[:num_leaves]
    all_weights = torch.zeros_like(logits[:1])
    # d -log p(v) / dz = softmax over all leaves - softmax over the leaves of v. The first is the
    # same at all levels and comes last.
    for outside, pixel_weight in zip(outsides, pixel_weights, strict=False):
        if pixel_weight is None:
            continue
        weight = pixel_weight.index_select(0, index)[None]
        all_weights += weight
        inside = log_probability + outside.index_select(1, index)
        top = inside.amax(0, keepdim=True)
        share = inside.sub_(top).exp_()
        mass = share.sum(0, keepdim=True)
        total = total - ((mass.log() + top) * weight).sum()
        leaves.sub_(share.mul_(weight / mass))
    if pixel_weights[-1] is not None:
        weight = pixel_weights[-1].index_select(0, index)[None]
        all_weights += weight
        target = leaf_target.index_select(0, index)[None]
        total = total - (log_probability.gather(0, target) * weight).sum()
        leaves.scatter_(0, target, leaves.gather(0, target) - weight)
    leaves.addcmul_(log_probability.exp_(), all_weights)
    return total, gradient


class _NodeLevelLoss(nn.Module):
    """A loss function with weights per level as a module."""

    needs = "logits"
    counts = "levels"

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        ignore_label: int = 255,
        level_weights: Sequence[float] | None = None,
        node_weights: Sequence[float] | None = None,
    ):
        """
        Args:
            hierarchy, ignore_label, level_weights, node_weights: as in `level_ce_loss`.
        """
        super().__init__()
        self.hierarchy = hierarchy
        register_node_weights(self, node_weights)
        self.options = {
            "ignore_label": ignore_label,
            "level_weights": _level_weights(level_weights, hierarchy),
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


@HIERA_LOSSES.register(name="level_ce")
class LevelCELoss(_NodeLevelLoss):
    """`level_ce_loss` as a module."""

    def forward(
        self, logits: Tensor, labels: Tensor, *, valid_count: float | Tensor | None = None
    ) -> Tensor:
        return level_ce_loss(
            logits,
            labels,
            self.hierarchy,
            node_weights=self.node_weights,
            valid_count=valid_count,
            **self.options,
        )


@HIERA_LOSSES.register(name="marginal_ce")
class MarginalCELoss(_NodeLevelLoss):
    """`marginal_ce_loss` as a module."""

    def forward(
        self, logits: Tensor, labels: Tensor, *, valid_count: float | Tensor | None = None
    ) -> Tensor:
        return marginal_ce_loss(
            logits,
            labels,
            self.hierarchy,
            node_weights=self.node_weights,
            valid_count=valid_count,
            **self.options,
        )


@HIERA_LOSSES.register(name="bce")
class BCELoss(nn.Module):
    """`bce_loss` as a module."""

    needs = "logits"
    counts = "pixels"

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        ignore_label: int = 255,
        normalize: str = "level_mean",
        node_weights: Sequence[float] | None = None,
    ):
        """
        Args:
            hierarchy, ignore_label, normalize, node_weights: as in `bce_loss`.
        """
        super().__init__()
        check_normalize(normalize)
        self.hierarchy = hierarchy
        register_node_weights(self, node_weights)
        self.options = {"ignore_label": ignore_label, "normalize": normalize}

    def forward(
        self, logits: Tensor, labels: Tensor, *, valid_count: float | Tensor | None = None
    ) -> Tensor:
        return bce_loss(
            logits,
            labels,
            self.hierarchy,
            node_weights=self.node_weights,
            valid_count=valid_count,
            **self.options,
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
