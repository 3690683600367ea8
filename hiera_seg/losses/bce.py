"""Define the binary cross entropy of nodes, the baseline of the tree-min loss."""

from collections.abc import Sequence

from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.fused.node_terms import NodeTerms, node_factors
from hiera_seg.losses.labels import LabelledLogits
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm, runs_eagerly


@runs_eagerly
def bce_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    normalize: str = "sum",
    ignore_label: int = 255,
    node_weights: Sequence[float] | Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Compute the binary cross entropy of each node independently; the tree sets the targets.

    The loss of a pixel is the sum over nodes of ``-l log s - (1 - l) log(1 - s)``, where ``l`` is 1
    for the label and its ancestors. The nodes below an inner label are unknown and contribute 0.

    Args:
        logits, labels, hierarchy, normalize, ignore_label, node_weights, valid_count: as in
            `tree_min_loss`.

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path if no pixel is valid.

    Raises:
        ValueError: as `tree_min_loss`.
    """
    batch = LabelledLogits(logits, labels, hierarchy, ignore_label)
    weight, scale = node_factors(batch, normalize, node_weights, valid_count)
    return NodeTerms(batch, weight, scale, consistent=False).sum()


@HIERA_LOSSES.register(name="bce")
class BCELoss(LossTerm, function=bce_loss):
    """`bce_loss` as a module."""

    decoding = "path_sum"
