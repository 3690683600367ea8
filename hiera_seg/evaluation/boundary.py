"""Evaluate predictions near the boundaries of classes, as an optional part of the evaluator."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import BoundaryCounts, mean_iou, scored_classes
from hiera_seg.metrics.boundary import MAX_DETECTRON2_CLASSES


class BoundaryQuality:
    """Compute the Boundary IoU per level, and Detectron2's Boundary IoU of the leaves.

    Attributes:
        file_name: empty, because no file is written.
        metric_names: names of the scalars in the result.
        counts: the counts of all images; ``counts.vector`` may be summed over processes.
    """

    file_name = ""
    outputs = ("hiera_labels",)

    def __init__(self, hierarchy: Hierarchy, unscored: Sequence[int]) -> None:
        self.hierarchy = hierarchy
        self.counts = BoundaryCounts(hierarchy)
        self._scored = scored_classes(hierarchy, unscored)
        self.metric_names = list(self.results()[0])

    def add(self, output: Mapping[str, Any], labels: np.ndarray, truth: np.ndarray) -> None:
        """Count one image, as :meth:`Calibration.add` does."""
        self.counts.add(labels, truth, output.get("hiera_unpredicted"))

    def results(self) -> tuple[dict[str, float], None]:
        """Return the scalars in percent, and None for the content of a file."""
        h = self.hierarchy
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
