"""Count pixels near class boundaries, for the Boundary IoU per level.

Cheng et al., *Boundary IoU: Improving Object-Centric Image Segmentation Evaluation* (CVPR 2021),
compute the IoU of the parts of two masks that are within a distance of their contours. For the
definitions and the differences from Detectron2's metric see docs/metrics.md.
"""

import math

import numpy as np

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics.confusion import index_at_level
from hiera_seg.metrics.scores import class_iou

DILATION_RATIO = 0.02  # distance as a share of the image's diagonal, as in the paper
# Detectron2 holds label maps with void as one more class in 8 bits.
MAX_DETECTRON2_CLASSES = 254
_MAX_JOINT_CELLS = 1 << 18  # of the table of both maps' classes


class BoundaryCounts:
    """Counts of one evaluation in one int64 vector, to be added over processes.

    Attributes:
        hierarchy: the tree with N nodes and L leaves.
        vector: int64 (size,), all counts; the properties are views of it.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        self._sizes = [len(hierarchy.level_nodes(i)) for i in range(hierarchy.num_levels)]
        self._sizes.append(hierarchy.num_leaves)
        self.vector = np.zeros(3 * sum(self._sizes) + 1, np.int64)

    @property
    def levels(self) -> list[np.ndarray]:
        """int64 (3, K) per level: for each class the pixels near its boundary in both maps, in the
        ground truth, and in the prediction.
        """
        return self._parts()[:-1]

    @property
    def detectron2(self) -> np.ndarray:
        """int64 (3, L): the same counts as defined in Detectron2's SemSegEvaluator."""
        return self._parts()[-1]

    def _parts(self) -> list[np.ndarray]:
        parts = np.split(self.vector[:-1], 3 * np.cumsum(self._sizes)[:-1])
        return [part.reshape(3, size) for part, size in zip(parts, self._sizes, strict=True)]

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return int(self.vector[-1])

    def add(
        self, labels: np.ndarray, truth: np.ndarray, unpredicted: np.ndarray | None = None
    ) -> None:
        """Count one image.

        Args:
            labels: integers (H, W), the predicted node of each pixel.
            truth: integers (H, W), the true node; void is any value outside [0, N).
            unpredicted: bool (H, W), pixels without a prediction.
        """
        nodes, leaves = self.hierarchy.num_nodes, self.hierarchy.num_leaves
        width = boundary_width(truth.shape)
        # In a map of 8 bits np.where would truncate N silently.
        labels, truth = (values.astype(np.int64, copy=False) for values in (labels, truth))
        labels = labels if unpredicted is None else np.where(unpredicted, nodes, labels)
        truth = np.where((truth >= 0) & (truth < nodes), truth, nodes)
        if truth.size:
            for level, counts in enumerate(self.levels):
                index = index_at_level(self.hierarchy, level)
                _count_level(counts, index, labels, truth, width)
            if leaves <= MAX_DETECTRON2_CLASSES:
                predicted, true = (_detectron2_boundary(m, leaves, width) for m in (labels, truth))
                # Detectron2 numbers the pairs in 8 bits, which overflow for more than 15 classes.
                pairs = np.divmod(predicted * np.uint8(leaves + 1) + true, np.uint8(leaves + 1))
                void = (pairs[0] == leaves) | (pairs[1] == leaves)
                _count_pairs(self.detectron2, *(np.where(void, leaves, m) for m in pairs))
        self.vector[-1] += 1

    def level_iou(self, level: int) -> np.ndarray:
        """Return the Boundary IoU of each class of a level, float64 (K,); NaN if it is absent."""
        return class_iou(*self.levels[level])

    def detectron2_iou(self) -> np.ndarray:
        """Return ``BoundaryIoU-<class>`` of Detectron2's SemSegEvaluator, float64 (L,), fractions.

        It is NaN for a class that occurs neither in the prediction nor in the ground truth.
        """
        right, truth, predicted = self.detectron2
        union = truth + predicted - right
        return np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0)


def boundary_width(shape: tuple[int, int]) -> int:
    """Return the distance in pixels within which a pixel is near a boundary."""
    return max(1, round(DILATION_RATIO * math.hypot(*shape)))


def near_boundary(classes: np.ndarray, width: int) -> np.ndarray:
    """Find the pixels near the boundary of their class.

    The result is the mask of each class minus its erosion by a square. Comparing the minimum and
    the maximum over the square computes it for all classes at once.

    Args:
        classes: integers (H, W).
        width: the square has 2 * width + 1 pixels on a side.

    Returns:
        bool (H, W), pixels with another class, or the end of the image, within the square.
    """
    near = window(classes, width, np.minimum) != window(classes, width, np.maximum)
    near[:width] = near[-width:] = True
    near[:, :width] = near[:, -width:] = True
    return near


def window(values: np.ndarray, width: int, reduce: np.ufunc) -> np.ndarray:
    """Reduce each pixel's square of 2 * width + 1 pixels on a side, cut at the end of the image.

    Args:
        values: (H, W).
        width: pixels on either side.
        reduce: np.minimum or np.maximum; the number of passes is logarithmic in `width`.
    """
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (width, width)
        found, span = np.pad(values, padding, mode="edge"), 1
        while span < 2 * width + 1:
            step = min(span, 2 * width + 1 - span)
            end = found.shape[axis] - step
            first, second = (slice(0, end), slice(step, None))
            if axis == 0:
                found = reduce(found[first], found[second])
            else:
                found = reduce(found[:, first], found[:, second])
            span += step
        values = found
    return values


def _count_level(
    counts: np.ndarray, index: np.ndarray, labels: np.ndarray, truth: np.ndarray, width: int
) -> None:
    """Add the pixels near boundaries to the counts (3, K) of one level.

    `index` is that of `index_at_level`; labels and truth (H, W) are nodes 0 .. N - 1, or N.
    """
    none = counts.shape[1]
    void, far = none + 1, none + 2
    index = index.astype(np.min_scalar_type(far))
    truth = np.where(index == none, void, index).astype(index.dtype)[truth]
    # Void is copied to the prediction, because a perfect prediction must have the same boundaries.
    labels = index[labels]
    np.copyto(labels, void, where=truth == void)
    _count_pairs(
        counts,
        *(np.where(near_boundary(m, width), m, index.dtype.type(far)) for m in (labels, truth)),
    )


def _count_pairs(counts: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> None:
    """Add the pixels by class to int64 (3, K) counts; values of K or more are not counted."""
    size = counts.shape[1]
    stride = size + 3
    if stride**2 <= _MAX_JOINT_CELLS:
        keys = true.astype(np.uint32) * stride + predicted
        joint = np.bincount(keys.reshape(-1), minlength=stride**2).reshape(stride, stride)
        found = joint.diagonal(), joint.sum(axis=1), joint.sum(axis=0)
    else:
        same = true[true == predicted]
        found = (np.bincount(m.reshape(-1), minlength=stride) for m in (same, true, predicted))
    for row, values in zip(counts, found, strict=True):
        row += values[:size]


def _detectron2_boundary(values: np.ndarray, size: int, width: int) -> np.ndarray:
    """Return uint8 (H, W): a map of leaves minus its erosion, as Detectron2 computes boundaries.

    A pixel at a boundary holds the difference of two ids, all others hold 0. The map is padded with
    0; void and values that are not leaves become `size`.
    """
    values = np.minimum(values, size).astype(np.uint8)
    eroded = window(values, width, np.minimum)
    eroded[:width] = eroded[-width:] = 0
    eroded[:, :width] = eroded[:, -width:] = 0
    return values - eroded
