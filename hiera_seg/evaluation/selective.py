"""Evaluate the confidence of predictions: calibration, and selective prediction at safe depths."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import (
    CalibrationCounts,
    SafeDepthCounts,
    level_calibrations,
    safe_depth_curve,
)

logger = logging.getLogger(__name__)


class Calibration:
    """Expected calibration error per level, from the model's "hiera_confidence".

    Attributes:
        file_name: the JSON file that the evaluator writes.
        metric_names: names of the scalars in the result.
        counts: histograms over all images; ``counts.vector`` may be summed over processes.
    """

    file_name = "calibration.json"
    outputs = ("hiera_confidence", "hiera_scores")  # the second is the name in version 0.1

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        self.counts = CalibrationCounts(hierarchy)
        self.metric_names = [f"ECE_{name}" for name in hierarchy.level_names]

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        """Count one image; without effect if the model returned no confidence.

        Args:
            output: the model's output for the image.
            labels: integers (H, W), the predicted node of each pixel.
            truth: integers (H, W), the true node; void is any value outside [0, N).

        Raises:
            ValueError: maps that do not fit the truth or the tree.
        """
        maps = _first_of(output, self.outputs)
        if maps is not None:
            self.counts.add(labels, [as_numpy(values) for values in maps], truth)

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scalars in percent, and the content of the file."""
        levels = level_calibrations(self.counts)
        scalars = [100 * level.ece for level in levels]
        content = [level.as_dict() for level in levels]
        return (
            dict(zip(self.metric_names, scalars, strict=True)),
            dict(zip(self.hierarchy.level_names, content, strict=True)),
        )


class SelectivePrediction:
    """Accuracy against specificity over all safe depths, from the model's "hiera_greedy_path".

    The attributes are those of :class:`Calibration`.
    """

    file_name = "safe_depth.json"
    outputs = ("hiera_greedy_path", "hiera_walk")
    limits = ("hiera_greedy_path_limits", "hiera_walk_limits")

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.counts = SafeDepthCounts(hierarchy)
        self.metric_names = ["safe_depth_auc"]

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        """Count one image, as :meth:`Calibration.add` does."""
        path = _first_of(output, self.outputs)
        if path is not None:
            limits = [as_numpy(values) for values in _first_of(output, self.limits)]
            self.counts.add(as_numpy(path), limits, truth)

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scalars in percent, and the content of the file."""
        curve = safe_depth_curve(self.counts)
        return {self.metric_names[0]: 100 * curve.area}, curve.as_dict()


def is_complete(part: Calibration | SelectivePrediction, num_images: int) -> bool:
    """Return whether all images were counted; warn if only some were."""
    counted = part.counts.num_images
    if 0 < counted < num_images:
        logger.warning(
            "%d of %d images had %r: %s is left out",
            counted, num_images, part.outputs[0], ", ".join(part.metric_names),
        )  # fmt: skip
    return 0 < counted == num_images


def as_numpy(values: Any) -> np.ndarray:
    """Convert a map of a model's output to an array."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _first_of(output: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of the first name that is present, or None."""
    return next((output[name] for name in names if name in output), None)
