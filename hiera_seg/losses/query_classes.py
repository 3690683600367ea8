"""How the queries of a mask transformer score the nodes of a tree: two options.

*leaf_softmax*: one softmax over the leaves and "no object"; a parent's score is the sum of its
leaves'. *node_sigmoid*: a sigmoid for each node, trained by the tree-min loss on the path of the
query's label; a query without a segment has every node negative.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_ops import ancestor_min, descendant_max, sum_over_leaves
from hiera_seg.losses.tree_min import tree_min_loss

NO_OBJECT = -1  # the label of a query without a segment


class LeafSoftmax(nn.Module):
    """Softmax over leaves and "no object" (the last logit); parents are sums.

    Attributes:
        num_logits: L + 1.
        rows: what these are, as ``class_rows`` of a head says it.
    """

    rows = "leaves_and_none"

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hierarchy = hierarchy
        self.num_logits = hierarchy.num_leaves + 1

    def reset_predictor(self, predictor: nn.Linear) -> None:
        """Start the layer that gives the logits: as PyTorch does."""
        predictor.reset_parameters()

    def node_scores(self, logits: Tensor) -> Tensor:
        """Class logits (..., L + 1) -> probabilities of all nodes (..., N)."""
        probabilities = logits.softmax(-1)[..., :-1]
        return sum_over_leaves(probabilities, self.hierarchy, dim=-1)

    def label_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How much each query is each label: logits (..., Q, L + 1), labels (S,) -> (..., Q, S)."""
        return self.node_scores(logits)[..., labels]

    def loss(self, logits: Tensor, labels: Tensor, no_object_weight: float) -> Tensor:
        """Weighted sum over queries of the negative log likelihood of their labels.

        An inner node is as likely as its leaves together.

        Args:
            logits: (R, L + 1) float.
            labels: int64 (R,), node ids or `NO_OBJECT`.
            no_object_weight: of queries without a segment.

        Returns:
            Scalar.
        """
        table = _outside_penalty(self.hierarchy, logits.device).to(logits.dtype)
        inside = logits + table[labels]  # NO_OBJECT, -1, is the table's last row
        terms = logits.logsumexp(-1) - inside.logsumexp(-1)
        return (terms * torch.where(labels < 0, no_object_weight, 1.0).to(terms.dtype)).sum()


class NodeSigmoid(nn.Module):
    """A sigmoid for each node, made consistent with the tree by the tree-min loss.

    Attributes:
        num_logits: N.
        rows: see :class:`LeafSoftmax`.
    """

    rows = "nodes"
    prior = 0.05  # the score of every node at the start: few nodes are positive

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hierarchy = hierarchy
        self.num_logits = hierarchy.num_nodes

    def reset_predictor(self, predictor: nn.Linear) -> None:
        """Start the layer that gives the logits: all scores near the prior."""
        predictor.reset_parameters()
        nn.init.constant_(predictor.bias, math.log(self.prior / (1 - self.prior)))

    def node_scores(self, logits: Tensor) -> Tensor:
        """Class logits (..., N) -> scores of all nodes (..., N)."""
        return logits.sigmoid()

    def label_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How much each query is each label, limited by the label's ancestors.

        Args:
            logits: (..., Q, N).
            labels: int64 (S,) node ids.

        Returns:
            (..., Q, S) in [0, 1].
        """
        return ancestor_min(logits, self.hierarchy, dim=-1)[..., labels].sigmoid()

    def loss(self, logits: Tensor, labels: Tensor, no_object_weight: float) -> Tensor:
        """Weighted sum over queries of their tree-min loss, summed over nodes, a mean over levels.

        The mean, because a path has a positive node at each level: the loss stays comparable to
        one softmax whatever the depth of the tree.

        Args:
            logits: (R, N) float.
            labels: int64 (R,), node ids or `NO_OBJECT`.
            no_object_weight: of queries without a segment.

        Returns:
            Scalar.
        """
        has_object = labels >= 0
        # Each query is a pixel of an image of one row
        matched = logits[has_object].t()[None, :, None]
        loss = tree_min_loss(
            matched,
            labels[has_object][None, None],
            self.hierarchy,
            normalize="sum",
            ignore_label=NO_OBJECT,
            valid_count=1.0,
        )
        highest = descendant_max(logits[~has_object], self.hierarchy, dim=-1)
        loss = loss + no_object_weight * F.softplus(highest).sum()
        return loss / self.hierarchy.num_levels


QUERY_OPTIONS = {"leaf_softmax": LeafSoftmax, "node_sigmoid": NodeSigmoid}


@lru_cache(maxsize=64)
def _outside_penalty(hierarchy: Hierarchy, device: torch.device) -> Tensor:
    """(N + 1, L + 1): 0 at the leaves of each node, -inf elsewhere; the last row: no object."""
    leaves = hierarchy.num_leaves
    with torch.inference_mode(False):
        table = torch.full((hierarchy.num_nodes + 1, leaves + 1), -math.inf, device=device)
        below = torch.tensor(hierarchy.ancestor_matrix[:leaves].T, device=device)  # (N, L)
        table[:-1, :-1].masked_fill_(below, 0.0)
        table[-1, -1] = 0.0
        return table
