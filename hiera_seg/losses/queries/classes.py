"""Score the nodes of a tree by the queries of a mask transformer, in one of two ways.

*leaf_softmax*: one softmax over the leaves and "no object"; the score of a parent is the sum over
its leaves. *node_sigmoid*: one sigmoid per node, trained by the tree-min loss on the path of the
query's label; for a query without a segment all nodes are negative.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.layers.tree_ops import ancestor_min, descendant_max, sum_over_leaves
from hiera_seg.losses.tree_min import tree_min_loss

NO_OBJECT = -1  # the label of a query without a segment


class LeafSoftmax(nn.Module):
    """Softmax over leaves and "no object" (the last logit); a parent is the sum of its leaves.

    Attributes:
        num_logits: L + 1.
        rows: the meaning of the logits, a value of ``class_rows`` of a head.
    """

    rows = "leaves_and_none"

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hierarchy = hierarchy
        self.num_logits = hierarchy.num_leaves + 1

    def reset_predictor(self, predictor: nn.Linear) -> None:
        """Initialize the layer of the logits with PyTorch's default."""
        predictor.reset_parameters()

    def node_scores(self, logits: Tensor) -> Tensor:
        """Compute the probabilities (..., N) of all nodes from class logits (..., L + 1)."""
        probabilities = logits.softmax(-1)[..., :-1]
        return sum_over_leaves(probabilities, self.hierarchy, dim=-1)

    def label_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the probabilities (..., Q, S) of labels (S,) for logits (..., Q, L + 1)."""
        return self.node_scores(logits)[..., labels]

    def loss(self, logits: Tensor, labels: Tensor, no_object_weight: float) -> Tensor:
        """Compute the weighted sum of the negative log likelihoods of the queries' labels.

        The probability of an inner node is the sum over its leaves.

        Args:
            logits: (R, L + 1) float.
            labels: int64 (R,), node ids or `NO_OBJECT`.
            no_object_weight: weight of queries without a segment.

        Returns:
            Scalar.
        """
        tree = TreeIndex.of(self.hierarchy, logits.device)
        leaves = torch.arange(self.hierarchy.num_leaves, device=logits.device)
        has_object = (labels >= 0)[:, None]
        label = labels.clamp(min=0)[:, None]
        inside = has_object & tree.is_on_path(label, leaves)
        inside = torch.cat([inside, ~has_object], 1)
        terms = logits.logsumexp(-1) - logits.masked_fill(~inside, -torch.inf).logsumexp(-1)
        return (terms * torch.where(labels < 0, no_object_weight, 1.0).to(terms.dtype)).sum()


class NodeSigmoid(nn.Module):
    """One sigmoid per node, made consistent with the tree by the tree-min loss.

    Attributes:
        num_logits: N.
        rows: see :class:`LeafSoftmax`.
    """

    rows = "nodes"
    prior = 0.05  # initial score of every node: few nodes are positive

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hierarchy = hierarchy
        self.num_logits = hierarchy.num_nodes

    def reset_predictor(self, predictor: nn.Linear) -> None:
        """Initialize the layer of the logits so that all scores are near the prior."""
        predictor.reset_parameters()
        nn.init.constant_(predictor.bias, math.log(self.prior / (1 - self.prior)))

    def node_scores(self, logits: Tensor) -> Tensor:
        """Compute the scores (..., N) of all nodes from class logits (..., N)."""
        return logits.sigmoid()

    def label_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the score of each label for each query, limited by the label's ancestors.

        Args:
            logits: (..., Q, N).
            labels: int64 (S,) node ids.

        Returns:
            (..., Q, S) in [0, 1].
        """
        return ancestor_min(logits, self.hierarchy, dim=-1)[..., labels].sigmoid()

    def loss(self, logits: Tensor, labels: Tensor, no_object_weight: float) -> Tensor:
        """Compute the weighted sum of the queries' tree-min losses over the number of levels.

        A path has one positive node per level. With this division the loss is comparable to one
        softmax for any depth of the tree.

        Args:
            logits: (R, N) float.
            labels: int64 (R,), node ids or `NO_OBJECT`.
            no_object_weight: weight of queries without a segment.

        Returns:
            Scalar.
        """
        has_object = labels >= 0
        # Each query is one pixel of an image with one row
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
