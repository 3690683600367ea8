"""The tree-min loss: binary cross entropy on scores made consistent with the tree."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.checks import check_normalize, check_number, register_node_weights
from hiera_seg.losses.compiling import runs_eagerly
from hiera_seg.losses.node_terms import node_loss
from hiera_seg.losses.registry import HIERA_LOSSES


@runs_eagerly
def tree_min_loss(
    logits: Tensor,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    gamma: float = 0.0,
    normalize: str = "level_mean",
    ignore_label: int = 255,
    node_weights: Tensor | None = None,
    valid_count: float | Tensor | None = None,
) -> Tensor:
    """Focal tree-min loss (HSSN, arXiv 2203.14335, eq. 5 and 6).

    With scores ``s = sigmoid(logits)``, a positive node v (the label or an ancestor of it) has
    ``p_v = min of s over v and its ancestors``, a negative one ``p_v = max of s over v and its
    descendants``, and the loss of a pixel is the sum over its nodes of::

        positive: -(1 - p_v)^gamma log p_v        negative: -p_v^gamma log(1 - p_v)

    Where the label is an inner node, the nodes below it are unknown and add 0; denominators stay
    as they are.

    Args:
        logits: (B, N, H, W) float, one channel a node. Half precision is computed in float32.
        labels: (B, H, W) int64 node ids, of leaves or inner nodes, or `ignore_label`.
        hierarchy: the tree.
        gamma: focal exponent, 0 or more; 0 is the plain loss, the paper's is 2.
        normalize: "level_mean" (mean over valid pixels and the nodes of a level, summed over the
            levels), "node_mean" (mean over valid pixels and all nodes) or "sum" (sum over nodes,
            mean over valid pixels). Each node counts once: leaves at the last level, an inner node
            at the level of its depth.
        ignore_label: the value of void in `labels`.
        node_weights: (N,) multiplies each node's term, its own scale included: denominators stay
            the same, so weights of 2 double the loss. A constant: gets no gradient.
        valid_count: pixels to divide by instead of the batch's own that are not void (training
            on several processes, see `valid_pixels`).

    Returns:
        Scalar, float32 (float64 for float64 logits); 0 with a gradient path where no pixel is
        valid.

    Raises:
        ValueError: shapes or types that do not fit, an unknown `normalize`, a label that is
            neither a node id nor `ignore_label`, or node weights or a count that are not finite
            and 0 or more (values on CUDA by a device assertion; see `label_index`).
    """
    return node_loss(
        logits,
        labels,
        hierarchy,
        consistent=True,
        gamma=gamma,
        normalize=normalize,
        ignore_label=ignore_label,
        node_weights=node_weights,
        valid_count=valid_count,
    )


@HIERA_LOSSES.register(name="tree_min")
class TreeMinLoss(nn.Module):
    """Plain `tree_min_loss` as a module."""

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
            hierarchy, ignore_label, normalize, node_weights: as in `tree_min_loss`.
        """
        super().__init__()
        check_normalize(normalize)
        self.hierarchy = hierarchy
        register_node_weights(self, node_weights)
        self.options = {"ignore_label": ignore_label, "normalize": normalize, "gamma": 0.0}

    def forward(
        self, logits: Tensor, labels: Tensor, *, valid_count: float | Tensor | None = None
    ) -> Tensor:
        return tree_min_loss(
            logits,
            labels,
            self.hierarchy,
            node_weights=self.node_weights,
            valid_count=valid_count,
            **self.options,
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


@HIERA_LOSSES.register(name="focal_tree_min")
class FocalTreeMinLoss(TreeMinLoss):
    """Focal `tree_min_loss` as a module."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        ignore_label: int = 255,
        gamma: float = 2.0,
        normalize: str = "level_mean",
        node_weights: Sequence[float] | None = None,
    ):
        """
        Args:
            hierarchy, ignore_label, gamma, normalize, node_weights: as in `tree_min_loss`.
        """
        super().__init__(
            hierarchy,
            ignore_label=ignore_label,
            normalize=normalize,
            node_weights=node_weights,
        )
        check_number("gamma", gamma, minimum=0)
        self.options["gamma"] = gamma
