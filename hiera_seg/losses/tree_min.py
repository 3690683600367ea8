"""Define the tree-min loss: binary cross entropy on scores made consistent with the tree."""

from collections.abc import Sequence

from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.fused.node_terms import NodeTerms, node_factors
from hiera_seg.losses.labels import LabelledLogits
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm, runs_eagerly


@runs_eagerly
def tree_min_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    gamma: float = 0.0,
    normalize: str = "sum",
    ignore_label: int = 255,
    node_weights: Sequence[float] | Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Compute the focal tree-min loss (HSSN, arXiv 2203.14335, eq. 5 and 6).

    With scores ``s = sigmoid(logits)``, a positive node v (the label or an ancestor of it) has
    ``p_v = min of s over v and its ancestors``, a negative one ``p_v = max of s over v and its
    descendants``, and the loss of a pixel is the sum over its nodes of::

        positive: -(1 - p_v)^gamma log p_v        negative: -p_v^gamma log(1 - p_v)

    Where the label is an inner node, the nodes below it are unknown and add 0; this does not change
    the normalizer.

    Args:
        logits: (B, N, H, W) float, one channel per node. Half precision is computed in float32.
        labels: (B, H, W) int64 node ids, of leaves or inner nodes, or `ignore_label`.
        hierarchy: the tree.
        gamma: focal exponent, 0 or more; 0 is the plain loss, the paper uses 2.
        normalize: "sum" (sum over nodes, mean over valid pixels), "level_mean" (mean over valid
            pixels and the nodes of a level, summed over the levels) or "node_mean" (mean over valid
            pixels and all nodes). Each node counts once: leaves at the last level, an inner node at
            the level of its depth.
        ignore_label: the value of void in `labels`.
        node_weights: (N,) factors of the nodes' terms. They do not change the normalizer: weights
            of 2 double the loss. Constants, without gradient.
        valid_count: the normalizer, in pixels; None for the number of pixels of this batch that are
            not void. For training on several processes, see `valid_pixels`.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path if no pixel is valid.

    Raises:
        ValueError: shapes or dtypes that do not fit, an unknown `normalize`, a label that is
            neither a node id nor `ignore_label`, or node weights or a count that are not finite
            and 0 or more (on CUDA, values are checked by a device assertion; see `label_index`).
    """
    batch = LabelledLogits(logits, labels, hierarchy, ignore_label)
    weight, scale = node_factors(batch, normalize, node_weights, valid_count)
    return NodeTerms(batch, weight, scale, gamma=gamma).sum()


@HIERA_LOSSES.register(name="tree_min")
class TreeMinLoss(LossTerm, function=tree_min_loss, without=("gamma",)):
    """`tree_min_loss` without the focal factor, as a module."""

    decoding = "path_sum"


@HIERA_LOSSES.register(name="focal_tree_min")
class FocalTreeMinLoss(LossTerm, function=tree_min_loss, gamma=2.0):
    """`tree_min_loss` with the focal factor, as a module."""

    decoding = "path_sum"
