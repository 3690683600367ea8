"""What an evaluation says about scores: calibration, and the curve over safe depths."""

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import (
    CalibrationCounts,
    LevelCalibration,
    SafeDepthCounts,
    SafeDepthCurve,
    level_calibrations,
    safe_depth_curve,
)

logger = logging.getLogger(__name__)

AREA = "safe_depth_auc"
ECE = "ECE_"  # and a level


class ScoreCounts:
    """Counts of the scores that a model gives beside its labels; nothing where it gives none.

    Args:
        hierarchy: the tree of the labels.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._calibration = CalibrationCounts(hierarchy)
        self._safe_depth = SafeDepthCounts(hierarchy)

    @property
    def metric_names(self) -> list[str]:
        """Names of all scalars that may come of them."""
        return [AREA, *(f"{ECE}{name}" for name in self._hierarchy.level_names)]

    @property
    def vectors(self) -> list[np.ndarray]:
        """int64 vectors that hold all counts; the sums over processes may be written into them."""
        return [self._calibration.vector, self._safe_depth.vector]

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        """Count one image.

        Args:
            output: of the model; ``hiera_scores`` counts for calibration, ``hiera_walk`` and
                ``hiera_walk_limits`` for the curve, where they are there.
            labels: integers (H, W), the predicted node of each pixel.
            truth: integers (H, W), the true node; void is any value outside [0, N).

        Raises:
            ValueError: maps that do not fit the truth or the tree.
        """
        if "hiera_scores" in output:
            scores = [as_numpy(values) for values in output["hiera_scores"]]
            self._calibration.add(labels, scores, truth)
        if "hiera_walk" in output:
            limits = [as_numpy(values) for values in output["hiera_walk_limits"]]
            self._safe_depth.add(as_numpy(output["hiera_walk"]), limits, truth)

    def results(self, num_images: int) -> "ScoreResults":
        """Make the numbers; those that not all `num_images` images have are left out."""
        calibration = curve = None
        for counts, what in ((self._calibration, "scores"), (self._safe_depth, "walks")):
            if 0 < counts.num_images < num_images:
                logger.warning(
                    "%d of %d images had %s of nodes: what follows from them is left out",
                    counts.num_images, num_images, what,
                )  # fmt: skip
        if 0 < num_images == self._calibration.num_images:
            calibration = level_calibrations(self._calibration)
        if 0 < num_images == self._safe_depth.num_images:
            curve = safe_depth_curve(self._safe_depth)
        return ScoreResults(self._hierarchy, calibration, curve)


class ScoreResults:
    """The numbers of `ScoreCounts`.

    Args:
        hierarchy: the tree of the labels.
        calibration: of each level, coarse to fine, or None.
        curve: over safe depths, or None.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        calibration: list[LevelCalibration] | None,
        curve: SafeDepthCurve | None,
    ) -> None:
        self._hierarchy = hierarchy
        self._calibration = calibration
        self._curve = curve

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The scalars under their public names, in percent."""
        result = {}
        if self._curve is not None:
            result[AREA] = 100 * self._curve.area
        for name, level in zip(self._hierarchy.level_names, self._calibration or (), strict=False):
            result[f"{ECE}{name}"] = 100 * level.ece
        return result

    @property
    def files(self) -> dict[str, Any]:
        """Names of files, and what they hold as json; None where there is nothing to write."""
        calibration = None
        if self._calibration is not None:
            levels = zip(self._hierarchy.level_names, self._calibration, strict=True)
            calibration = {name: level.as_dict() for name, level in levels}
        curve = None if self._curve is None else self._curve.as_dict()
        return {"calibration.json": calibration, "safe_depth.json": curve}

    def __str__(self) -> str:
        """The scalars as one line of the log; empty where there are none."""
        return ", ".join(f"{name} {value:.2f} %" for name, value in self.metrics.items())


def as_numpy(values: Any) -> np.ndarray:
    """A map of a model's output as an array."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
