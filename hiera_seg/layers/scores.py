"""Convert head outputs (logits or query scores) to per-node and per-leaf scores.

This is the only module that does so. A *variant* specifies what the outputs mean. It determines the
score of a node at a level, which direct labels and the safe depth use, and the score of a leaf; the
best leaf determines the path of a pixel. With logit ``z_v``, ``s_v = sigmoid(z_v)`` and ``a_l(v)``
the node that represents leaf ``v`` at level ``l`` (its ancestor at depth ``l``, or ``v`` itself at
levels below its depth, which keeps the number of summands equal for all leaves):

============== ================================================ ==============================
variant        score of node v at level l                       score of leaf v
============== ================================================ ==============================
path_sum       s_v                                              sum over levels of s at a_l(v)
path_product   s_v                                              product over levels of the same
leaf           s_v                                              s_v
level_softmax  softmax of z within the nodes of level l, at v   sum over levels of that at a_l(v)
joint_softmax  one softmax of z over all N nodes, at v          sum over levels of that at a_l(v)
marginal       sum over the leaves below v of the softmax of z  softmax of z over the leaves, at v
               over the leaves
============== ================================================ ==============================

marginal_path_sum scores nodes as marginal does, and a leaf by the sum over levels of that at
``a_l(v)``: if no part of a person is probable by itself but a person is, it predicts a part.

In level_softmax a shallow leaf takes part in the softmax of every deeper level, so it has a score
of its own at each of them.
"""

import copy
import math
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex, take_nodes
from hiera_seg.layers.tree_ops import path_sum, sum_over_leaves

DECODE_VARIANTS = (
    "path_sum",
    "path_product",
    "leaf",
    "level_softmax",
    "joint_softmax",
    "marginal",
    "marginal_path_sum",
)
# Scores of query heads may exceed 1 and are not logits. Neither their softmax nor their product is
# meaningful.
SCORE_VARIANTS = ("path_sum", "leaf")
# Variants that do not use the outputs of inner nodes
LEAF_VARIANTS = ("marginal", "marginal_path_sum")
_KINDS = {"logits": DECODE_VARIANTS, "scores": SCORE_VARIANTS}


class NodeOutput(NamedTuple):
    """The output of a head: one value per node and position.

    Attributes:
        values: (B, N, h, w) float, one channel per node in the tree's numbering.
        kind: "logits" (pixel heads) or "scores" (query heads; not negative, may exceed 1).
    """

    values: Tensor
    kind: str


def check_variant(variant: str, kind: str) -> None:
    """Check that a variant can decode outputs of a kind.

    Raises:
        ValueError: unknown kind, unknown variant, or a variant that the kind does not allow.
    """
    if kind not in _KINDS:
        raise ValueError(f"NodeOutput.kind is {kind!r}; it must be one of {tuple(_KINDS)}")
    if variant not in DECODE_VARIANTS:
        raise ValueError(f"unknown decode variant {variant!r}; it must be one of {DECODE_VARIANTS}")
    if variant not in _KINDS[kind]:
        raise ValueError(
            f"decode variant {variant!r} needs logits, but the output of the head is of kind "
            f"{kind!r} (query heads; such scores may exceed 1); choose one of {_KINDS[kind]}"
        )


class NodeScores:
    """The scores of nodes at their levels and of leaves; made by `node_scores`."""

    def __init__(self, values: Tensor, hierarchy: Hierarchy, variant: str):
        self._hierarchy, self._variant = hierarchy, variant
        self._tables = TreeIndex.of(hierarchy, values.device).levels
        leaves = values[:, : hierarchy.num_leaves]
        # What `mean_scores` averages: one map per level for level_softmax, otherwise one map
        if variant == "level_softmax":
            self._maps = [take_nodes(values, t.nodes, 1).softmax(1) for t in self._tables]
        elif variant == "joint_softmax":
            self._maps = [values.softmax(1)]
        elif variant == "marginal":
            self._maps = [leaves.softmax(1)]
        elif variant == "marginal_path_sum":
            self._maps = [sum_over_leaves(leaves.softmax(1), hierarchy, dim=1)]
        elif variant == "path_product":
            self._maps = [torch.nn.functional.logsigmoid(values)]
        else:
            self._maps = [values]

    @cached_property
    def _nodes(self) -> Tensor:
        """Scores (B, N, H, W), for all variants but level_softmax."""
        if self._variant == "marginal":
            return sum_over_leaves(self._maps[0], self._hierarchy, dim=1)
        return self._maps[0].exp() if self._variant == "path_product" else self._maps[0]

    def at_level(self, level: int) -> Tensor:
        """Return the scores of the nodes of a level.

        Args:
            level: index of the level, 0 = coarsest.

        Returns:
            (B, len(level_nodes(level)), H, W), in the order of ``hierarchy.level_nodes(level)``.
        """
        if self._variant == "level_softmax":
            return self._maps[level]
        return take_nodes(self._nodes, self._tables[level].nodes, 1)

    def leaf_ranking(self) -> Tensor:
        """Return (B, L, H, W) values that order the leaves as their scores do.

        These are the scores themselves, except for path_product: their logarithms, which do not
        underflow where every node of every path is improbable.
        """
        if self._variant == "level_softmax":
            total = self._maps[-1].clone()  # the finest level holds the leaves in their order
            for table, scores in zip(self._tables[:-1], self._maps[:-1], strict=True):
                total += scores.index_select(1, table.leaf_position)
            return total
        if self._variant in ("leaf", "marginal"):
            return self._maps[0][:, : self._hierarchy.num_leaves]
        return path_sum(self._maps[0], self._hierarchy, dim=1)

    def leaves(self) -> Tensor:
        """Return the scores (B, L, H, W) of the leaves; the best leaf determines the path."""
        ranking = self.leaf_ranking()
        return ranking.exp() if self._variant == "path_product" else ranking


def mean_scores(scores: Iterable[NodeScores]) -> NodeScores:
    """Average several outputs for the same pixels: their probabilities, not their logits.

    Args:
        scores: at least one, of the same tree, variant and size; they are not changed, and two are
            in memory at a time if they are computed on demand.

    Returns:
        `NodeScores` in which every node has the mean of its scores. The score of a leaf is
        computed from these means as the variant computes it from scores.
    """
    scores = iter(scores)
    mean, count = copy.copy(next(scores)), 1
    vars(mean).pop("_nodes", None)
    is_log = mean._variant == "path_product"
    for one in scores:
        pairs = zip(mean._maps, one._maps, strict=True)
        mean._maps = [torch.logaddexp(*pair) if is_log else torch.add(*pair) for pair in pairs]
        count += 1
    if count > 1:
        mean._maps = [same - math.log(count) if is_log else same / count for same in mean._maps]
    return mean


def node_scores(output: NodeOutput, hierarchy: Hierarchy, variant: str) -> NodeScores:
    """Compute the scores of all nodes and leaves from the output of a head.

    Args:
        output: values (B, N, H, W), or of the leaves alone for `LEAF_VARIANTS`; half precision is
            computed in float32, float64 in float64.
        hierarchy: the tree whose numbering the channels follow.
        variant: one of `DECODE_VARIANTS`, see the docstring of this module.

    Returns:
        `NodeScores`: ``at_level(level)`` and ``leaves()``.

    Raises:
        ValueError: the variant is unknown or not allowed for the kind, or the channels are not the
            nodes of the tree.
    """
    check_variant(variant, output.kind)
    values = output.values
    fewest = hierarchy.num_leaves if variant in LEAF_VARIANTS else hierarchy.num_nodes
    if values.dim() != 4 or values.shape[1] not in (fewest, hierarchy.num_nodes):
        raise ValueError(
            f"node values have shape {tuple(values.shape)}; tree {hierarchy.name!r} needs "
            f"(B, {hierarchy.num_nodes}, H, W), one channel per node"
        )
    if values.dtype != torch.float64:
        values = values.float()
    if output.kind == "logits" and variant in SCORE_VARIANTS:
        values = values.sigmoid()
    return NodeScores(values, hierarchy, variant)
