"""Compute accuracy against specificity of selective prediction, at all thresholds at once.

The greedy path descends to the best child and stops where its score is below a threshold. The
higher the threshold, the coarser the labels and the more often they are correct. One pass over the
pixels counts how deep each path gets at every threshold of a grid; no pixel is stored.
Definitions: docs/metrics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiera_seg.disk import json_data
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics.checks import check_ids, check_shapes

# Dense near 0 and 1, where most scores of a trained network are; above 1 for heads whose scores may
# exceed 1.
THRESHOLDS = (
    *(0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005),
    *(round(0.01 * i, 2) for i in range(1, 100)),
    *(0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999, 1.0),
    *(1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0, 1000.0),
)
# The kinds of nodes of a greedy path: below a wrong node, the first wrong node, and correct.
_LOST, _TURNS_WRONG, _RIGHT = range(3)


class SafeDepthCounts:
    """Counts of one evaluation in one int64 vector, which one reduction sums over processes.

    Attributes:
        hierarchy: the tree with N nodes and L leaves.
        thresholds: float32 (T,), ascending.
        vector: int64 (size,), all counts; the properties are views of it. Its size depends only on
            the tree and T.
    """

    def __init__(self, hierarchy: Hierarchy, thresholds: Sequence[float] = THRESHOLDS) -> None:
        # float32 like the scores, because a score equal to a threshold has to pass it.
        self.thresholds = np.asarray(thresholds, np.float32)
        self.hierarchy = hierarchy
        self._shape = (hierarchy.num_nodes, 3, len(self.thresholds) + 1)
        self.vector = np.zeros(int(np.prod(self._shape)) + 1, np.int64)

    @property
    def steps(self) -> np.ndarray:
        """int64 (N, 3, T + 1), pixels whose greedy path contains a node, by [node, kind, passed].

        Kinds: 0, a node above was wrong already; 1, the first wrong node; 2, the node is correct.
        The last axis is the number of thresholds at which the path reaches the node; all of them
        for the top level.
        """
        return self.vector[:-1].reshape(self._shape)

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return int(self.vector[-1])

    def add(self, leaf: np.ndarray, limits: Sequence[np.ndarray], truth: np.ndarray) -> None:
        """Count the pixels of one image whose true leaf is known.

        Args:
            leaf: integers (H, W), the last node of each pixel's greedy path without a threshold.
            limits: for each level except the coarsest, coarse to fine, float (H, W): the largest
                threshold at which the path reaches that level; NaN if there is none.
            truth: integers (H, W), the true node; void is any value outside [0, N).

        Raises:
            ValueError: a map has another shape than `truth`, the number of limits is wrong, or
                `leaf` holds a value that is not a leaf.
        """
        h = self.hierarchy
        if len(limits) != h.num_levels - 1:
            raise ValueError(
                f"{len(limits)} maps of limits for tree {h.name!r}; pass one for each of its "
                f"{h.num_levels} levels except the coarsest"
            )
        check_shapes((leaf, *limits), truth, "a map of the greedy path")
        known = (truth >= 0) & (truth < h.num_leaves)
        leaf, truth = leaf[known], truth[known]
        check_ids(leaf, h.num_leaves, h, "the map of leaves")
        num_passed = len(self.thresholds)
        cells = np.zeros(self.steps.size, np.int64)
        was_right = np.ones(leaf.shape, bool)
        for level, ancestor in enumerate(h.level_ancestor):
            node = ancestor[leaf]
            right = node == ancestor[truth]
            kind = np.where(right, _RIGHT, np.where(was_right, _TURNS_WRONG, _LOST))
            if level == 0:
                passed = np.full(leaf.shape, num_passed)
            else:
                limit = np.nan_to_num(limits[level - 1][known].astype(np.float32), nan=-np.inf)
                passed = np.searchsorted(self.thresholds, limit, side="right")
            # A leaf above this level was counted at its own level.
            here = h.depth[node] == level
            index = ((node * 3 + kind) * (num_passed + 1) + passed)[here]
            cells += np.bincount(index, minlength=cells.size)
            was_right = right
        self.vector[:-1] += cells
        self.vector[-1] += 1


@dataclass(frozen=True)
class SafeDepthCurve:
    """Accuracy and specificity of the labels at each threshold, as fractions.

    Attributes:
        hierarchy: the tree.
        thresholds: float64 (T,), ascending; the last one is the first of the grid that no path
            passes.
        accuracy: float64 (T,), share of the pixels whose label is the true leaf or an ancestor.
        specificity: float64 (T,), mean information of the labels: 0 for the root of the tree, 1
            for a leaf.
        information_gain: float64 (T,), the same, with 0 for wrong labels.
        reached: float64 (levels, T), share of the pixels whose label reaches a level.
        area: area under accuracy over specificity from 0 (the root, always correct) to 1 (a leaf).
        num_pixels: number of pixels whose true leaf is known.
    """

    hierarchy: Hierarchy
    thresholds: np.ndarray
    accuracy: np.ndarray
    specificity: np.ndarray
    information_gain: np.ndarray
    reached: np.ndarray
    area: float
    num_pixels: int

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``safe_depth.json`` (docs/metrics.md); None for NaN."""
        levels = zip(self.hierarchy.level_names, self.reached, strict=True)
        overall = {
            "thresholds": self.thresholds,
            "accuracy": self.accuracy,
            "specificity": self.specificity,
            "information_gain": self.information_gain,
            "reached": dict(levels),
            "area": self.area,
            "pixels": self.num_pixels,
        }
        return {"overall": json_data(overall)}


def node_information(hierarchy: Hierarchy) -> np.ndarray:
    """Return the information of each label: 1 - log(leaves below it) / log(all leaves).

    It is 0 for the root and 1 for a leaf: the information gain of Deng et al., *Hedging Your Bets*
    (CVPR 2012), with equally probable leaves, as a fraction of that of a leaf.

    Returns:
        float64 (N,).
    """
    leaves = np.zeros(hierarchy.num_nodes)
    for ancestor in hierarchy.level_ancestor:
        nodes, counts = np.unique(ancestor[: hierarchy.num_leaves], return_counts=True)
        leaves[nodes] = counts
    if hierarchy.num_leaves == 1:
        return np.ones(hierarchy.num_nodes)
    return 1 - np.log(leaves) / np.log(hierarchy.num_leaves)


def safe_depth_curve(counts: SafeDepthCounts) -> SafeDepthCurve:
    """Compute the curve from the counts; all NaN if no pixel was counted."""
    h = counts.hierarchy
    # passes[v, kind, i]: paths that reach v at threshold i
    passes = counts.steps[..., ::-1].cumsum(axis=-1)[..., -2::-1]
    inner = h.depth > 0
    used = min(int(passes[inner].any(axis=(0, 1)).sum()) + 1, len(counts.thresholds))
    passes = passes[..., :used]
    top = passes[~inner]
    num_pixels = int(top[..., 0].sum())

    gain = node_information(h)
    gain_above = np.where(inner, gain[h.parent], 0.0)
    step = gain - gain_above
    with np.errstate(invalid="ignore"):
        right = top[:, _RIGHT].sum(axis=0) - passes[inner, _TURNS_WRONG].sum(axis=0)
        accuracy = right / np.float64(num_pixels)
        specificity = step @ passes.sum(axis=1) / num_pixels
        rewards = step @ passes[:, _RIGHT] - gain_above @ passes[:, _TURNS_WRONG]
        information_gain = rewards / num_pixels
        reached = np.stack(
            [
                passes[h.level_nodes(level)].sum(axis=(0, 1)) / np.float64(num_pixels)
                for level in range(h.num_levels)
            ]
        )
    x = np.append(specificity, 0.0)
    y = np.append(accuracy, 1.0)
    area = float(((x[:-1] - x[1:]) * (y[:-1] + y[1:])).sum() / 2)
    return SafeDepthCurve(
        hierarchy=h,
        thresholds=np.array([float(str(t)) for t in counts.thresholds[:used]]),
        accuracy=accuracy,
        specificity=specificity,
        information_gain=information_gain,
        reached=reached,
        area=area,
        num_pixels=num_pixels,
    )
