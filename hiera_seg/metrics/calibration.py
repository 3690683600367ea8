"""Compute the calibration per level: how the confidence of pixels compares with their accuracy.

Definitions: docs/metrics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiera_seg.disk import json_data
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics.checks import check_ids, check_shapes

NUM_BINS = 15
# Sums of scores are integers in this unit, which makes them independent of the order of images.
_UNIT = 2.0**-24


class CalibrationCounts:
    """Counts of one evaluation in one int64 vector, which one reduction sums over processes.

    Attributes:
        hierarchy: the tree with N nodes.
        num_bins: B, bins of equal width over scores 0 to 1.
        vector: int64 (size,), all counts; the properties are views of it. Its size depends only on
            the number of levels and B.
    """

    def __init__(self, hierarchy: Hierarchy, num_bins: int = NUM_BINS) -> None:
        self.hierarchy = hierarchy
        self.num_bins = num_bins
        self._shape = (hierarchy.num_levels, 3, num_bins)
        self.vector = np.zeros(int(np.prod(self._shape)) + 1, np.int64)

    @property
    def bins(self) -> np.ndarray:
        """int64 (levels, 3, B): pixels, correct pixels, and sum of scores in units of 2^-24."""
        return self.vector[:-1].reshape(self._shape)

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return int(self.vector[-1])

    def add(self, labels: np.ndarray, scores: Sequence[np.ndarray], truth: np.ndarray) -> None:
        """Count one image: per level, the pixels whose true and predicted label reach it.

        Args:
            labels: integers (H, W), the predicted node of each pixel; its ancestors are the labels
                at coarser levels.
            scores: one (H, W) float map per level, coarse to fine: the score of the label at the
                level, clipped to [0, 1]; NaN counts as 0.
            truth: integers (H, W), the true node; void is any value outside [0, N).

        Raises:
            ValueError: a map has another shape than `truth`, there is not one map of scores per
                level, or `labels` holds a value that is not a node id.
        """
        h = self.hierarchy
        if len(scores) != h.num_levels:
            raise ValueError(
                f"{len(scores)} maps of scores for the {h.num_levels} levels of tree {h.name!r}; "
                "pass one per level, coarse to fine"
            )
        check_shapes((labels, *scores), truth, "a map of labels or scores")
        known = (truth >= 0) & (truth < h.num_nodes)
        labels, truth = labels[known], truth[known]
        check_ids(labels, h.num_nodes, h, "the map of labels")
        for level, ancestor in enumerate(h.level_ancestor):
            predicted, true = ancestor[labels], ancestor[truth]
            there = (predicted >= 0) & (true >= 0)
            score = np.nan_to_num(scores[level][known][there].astype(np.float64))
            score = score.clip(0, 1)
            index = np.minimum((score * self.num_bins).astype(np.int64), self.num_bins - 1)
            right = (predicted == true)[there]
            units = np.rint(score / _UNIT)
            pixels, num_right, total = self.bins[level]
            pixels += np.bincount(index, minlength=self.num_bins)
            num_right += np.bincount(index[right], minlength=self.num_bins)
            # Exact: an image's sum stays far below 2^53.
            total += np.bincount(index, units, minlength=self.num_bins).astype(np.int64)
        self.vector[-1] += 1


@dataclass(frozen=True)
class LevelCalibration:
    """Calibration of one level, as fractions.

    Attributes:
        count: int64 (B,), pixels of each bin of scores.
        confidence: float64 (B,), mean score of these pixels; NaN in an empty bin.
        accuracy: float64 (B,), share of them that is correct; NaN in an empty bin.
        ece: expected calibration error: the mean over pixels of |accuracy - confidence| of their
            bin; NaN without pixels.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of a level in ``calibration.json`` (docs/metrics.md); None for NaN."""
        edges = np.linspace(0, 1, len(self.count) + 1)
        names = ("low", "high", "confidence", "accuracy", "count")
        columns = (edges[:-1], edges[1:], self.confidence, self.accuracy, self.count)
        bins = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return json_data({"bins": bins, "ece": self.ece})


def level_calibrations(counts: CalibrationCounts) -> list[LevelCalibration]:
    """Compute the calibration of each level, coarse to fine, from the counts.

    The error is that of Guo et al., *On Calibration of Modern Neural Networks* (ICML 2017), eq. 3.
    """
    levels = []
    for pixels, right, total in counts.bins:
        with np.errstate(invalid="ignore"):
            confidence, accuracy = total * _UNIT / pixels, right / pixels
        filled = pixels > 0
        gaps = np.abs(accuracy - confidence)[filled] * pixels[filled]
        ece = float(gaps.sum() / pixels.sum()) if filled.any() else float("nan")
        levels.append(LevelCalibration(pixels.copy(), confidence, accuracy, ece))
    return levels
