"""Compute the BCE and dice loss of masks at points, for matched pairs or all combinations."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex


class PointTargets(NamedTuple):
    """The targets of segments' masks at points.

    Attributes:
        inside: (..., P) float, 1 if the point belongs to the segment.
        known: (..., P) float, 0 if this is unknown, because the point's label is an ancestor or a
            descendant of the segment's.
    """

    inside: Tensor
    known: Tensor


def point_targets(
    segment_labels: Tensor, point_labels: Tensor, hierarchy: Hierarchy, dtype: torch.dtype
) -> PointTargets:
    """Compare the labels of segments with those of points.

    Args:
        segment_labels: int64 (S,) node ids.
        point_labels: int64 (P,) or (S, P) node ids, none of them void.
        hierarchy: the tree.
        dtype: of the result.

    Returns:
        Targets (S, P).
    """
    segment_labels = segment_labels[:, None]
    point_labels = point_labels.expand(len(segment_labels), -1)
    tree = TreeIndex.of(hierarchy, point_labels.device)
    related = tree.is_below(segment_labels, point_labels)
    related |= tree.is_below(point_labels, segment_labels)
    return PointTargets((point_labels == segment_labels).to(dtype), (~related).to(dtype))


def mask_bce(logits: Tensor, targets: PointTargets) -> Tensor:
    """Return the mean binary cross entropy (...) over the known points of logits (..., P)."""
    terms = F.binary_cross_entropy_with_logits(
        logits, targets.inside.expand_as(logits), reduction="none"
    )
    return (terms * targets.known).sum(-1) / targets.known.sum(-1).clamp(min=1)


def mask_dice(logits: Tensor, targets: PointTargets) -> Tensor:
    """Return 1 - (2 |A B| + 1) / (|A| + |B| + 1) (...) over the known points of logits (..., P)."""
    scores = logits.sigmoid() * targets.known
    inside = targets.inside * targets.known
    overlap = (scores * inside).sum(-1)
    return 1 - (2 * overlap + 1) / (scores.sum(-1) + inside.sum(-1) + 1)


def mask_costs(logits: Tensor, targets: PointTargets) -> tuple[Tensor, Tensor]:
    """Compute :func:`mask_bce` and :func:`mask_dice` of every query with every segment.

    Args:
        logits: (..., Q, P) float.
        targets: (S, P).

    Returns:
        Both (..., Q, S).
    """
    inside = targets.inside * targets.known
    outside = targets.known - inside
    known = targets.known.sum(-1)
    bce = F.softplus(-logits) @ inside.t() + F.softplus(logits) @ outside.t()
    scores = logits.sigmoid()
    overlap = scores @ inside.t()
    dice = 1 - (2 * overlap + 1) / (scores @ targets.known.t() + inside.sum(-1) + 1)
    return bce / known.clamp(min=1), dice
