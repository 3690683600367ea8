"""Define the optional parts of the evaluator: calibration, selective prediction, boundaries."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import (
    BoundaryCounts,
    CalibrationCounts,
    SafeDepthCounts,
    level_calibrations,
    mean_iou,
    safe_depth_curve,
    scored_classes,
)
from hiera_seg.metrics.boundary import MAX_DETECTRON2_CLASSES

logger = logging.getLogger(__name__)


class Part:
    """Base class of the optional parts of an evaluation.

    Attributes:
        counts: counts over all images; ``counts.vector`` may be summed over processes.
        metric_names: names of the scalars in the result.
        outputs: keys of the model's output that hold the map to count: the present name, then that
            of version 0.1.
        file_name: the JSON file that the evaluator writes; "" for none.
    """

    counts: CalibrationCounts | SafeDepthCounts | BoundaryCounts
    metric_names: list[str]
    outputs: tuple[str, ...]
    file_name = ""

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        """Count one image; without effect if the model's output lacks the map.

        Args:
            output: the model's output for the image.
            labels: integers (H, W), the predicted node of each pixel.
            truth: integers (H, W), the true node; void is any value outside [0, N).

        Raises:
            ValueError: maps that do not fit the truth or the tree.
        """
        raise NotImplementedError

    def results(self) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return the scalars in percent, and the content of the file."""
        raise NotImplementedError

    def is_complete(self, num_images: int) -> bool:
        """Return whether all images were counted; warn if only some were."""
        counted = self.counts.num_images
        if 0 < counted < num_images:
            logger.warning(
                "%d of %d images had %r: %s is left out",
                counted, num_images, self.outputs[0], ", ".join(self.metric_names),
            )  # fmt: skip
        return 0 < counted == num_images


class Calibration(Part):
    """Expected calibration error per level, from the model's "hiera_confidence"."""

    file_name = "calibration.json"
    outputs = ("hiera_confidence", "hiera_scores")

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.counts = CalibrationCounts(hierarchy)
        self.metric_names = [f"ECE_{name}" for name in hierarchy.level_names]

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        maps = _first_of(output, self.outputs)
        if maps is not None:
            if (unpredicted := output.get("hiera_unpredicted")) is not None:
                truth = np.where(unpredicted, -1, truth)  # there is no label to be correct
            self.counts.add(labels, [as_numpy(values) for values in maps], truth)

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        levels = level_calibrations(self.counts)
        scalars = [100 * level.ece for level in levels]
        content = [level.as_dict() for level in levels]
        return (
            dict(zip(self.metric_names, scalars, strict=True)),
            dict(zip(self.counts.hierarchy.level_names, content, strict=True)),
        )


class SelectivePrediction(Part):
    """Accuracy against specificity over all safe depths, from the model's "hiera_greedy_path"."""

    file_name = "safe_depth.json"
    outputs = ("hiera_greedy_path", "hiera_walk")
    limits = ("hiera_greedy_path_limits", "hiera_walk_limits")

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.counts = SafeDepthCounts(hierarchy)
        self.metric_names = ["safe_depth_auc"]

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        path = _first_of(output, self.outputs)
        if path is not None:
            limits = [as_numpy(values) for values in _first_of(output, self.limits)]
            self.counts.add(as_numpy(path), limits, truth)

    def results(self) -> tuple[dict[str, float], dict[str, Any]]:
        curve = safe_depth_curve(self.counts)
        return {self.metric_names[0]: 100 * curve.area}, curve.as_dict()


class BoundaryQuality(Part):
    """The Boundary IoU per level, and Detectron2's Boundary IoU of the leaves."""

    outputs = ("hiera_labels",)

    def __init__(self, hierarchy: Hierarchy, unscored: Sequence[int]) -> None:
        self.counts = BoundaryCounts(hierarchy)
        self._scored = scored_classes(hierarchy, unscored)
        self.metric_names = list(self.results()[0])

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        self.counts.add(labels, truth, output.get("hiera_unpredicted"))

    def results(self) -> tuple[dict[str, float], None]:
        h = self.counts.hierarchy
        found = {}
        leaves = h.display_names[: h.num_leaves]
        of_classes = {}
        if h.num_leaves <= MAX_DETECTRON2_CLASSES:
            of_classes = dict(zip(leaves, self.counts.detectron2_iou(), strict=True))
        for level, name in enumerate(h.level_names):
            iou = self.counts.level_iou(level)
            found[f"mBoundaryIoU_{name}"] = mean_iou(iou, self._scored[level])
            classes = (f"{name}-{h.display_names[v]}" for v in h.level_nodes(level))
            of_classes |= dict(zip(classes, iou, strict=True))
        found |= {f"BoundaryIoU-{name}": value for name, value in of_classes.items()}
        return {name: 100 * float(value) for name, value in found.items()}, None


def as_numpy(values: Any) -> np.ndarray:
    """Convert a map of a model's output to an array."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _first_of(output: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of the first name that is present, or None."""
    return next((output[name] for name in names if name in output), None)
