"""Boundary IoU against an erosion of one mask per class, and against Detectron2's own code."""

from functools import partial

import numpy as np
import pytest
from detectron2.evaluation import SemSegEvaluator
from scipy.ndimage import binary_erosion, minimum_filter

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import BoundaryCounts, boundary
from hiera_seg.metrics.boundary import boundary_width, near_boundary, window

TREE = Hierarchy.from_dict(
    {"sky": None, "flat": ["road", "path"], "vehicle": {"four": ["car", "bus"], "bike": None}}
)


def blobs(rng, shape, ids, size=6):
    """A map of squares, so that there are boundaries and interiors."""
    coarse = rng.choice(ids, (-(-shape[0] // size), -(-shape[1] // size)))
    return coarse.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 30])
def test_window_is_a_filter_of_a_square(width):
    values = np.random.default_rng(width).integers(0, 200, (17, 23)).astype(np.uint8)
    expected = minimum_filter(values, 2 * width + 1, mode="nearest")
    np.testing.assert_array_equal(window(values, width, np.minimum), expected)


def test_the_width_is_a_share_of_the_diagonal():
    assert boundary_width((30, 40)) == 1
    assert boundary_width((3, 4)) == 1
    assert boundary_width((1024, 2048)) == 46


def boundaries_by_erosion(classes, width):
    """Per class, as the paper does: the mask without its erosion; outside there is no mask."""
    near = np.zeros(classes.shape, bool)
    for c in np.unique(classes):
        mask = np.pad(classes == c, 1)
        eroded = binary_erosion(mask, np.ones((3, 3)), iterations=width)
        near |= (mask & ~eroded)[1:-1, 1:-1]
    return near


@pytest.mark.parametrize("width", [1, 2, 5])
def test_near_boundary_is_the_mask_without_its_erosion(width):
    classes = blobs(np.random.default_rng(0), (40, 50), 4, size=9)
    np.testing.assert_array_equal(
        near_boundary(classes, width), boundaries_by_erosion(classes, width)
    )


def iou_of_level(cases, level):
    """The IoU of the boundaries of each class of a level, one mask at a time."""
    paths = [tuple(path.split("/")) for path in TREE.paths]

    def at(node):
        if node >= TREE.num_nodes:
            return None
        path = paths[node][: level + 1]
        return path if len(paths[node]) > level or node < TREE.num_leaves else None

    totals = np.zeros((2, len(TREE.level_nodes(level))))
    for labels, truth in cases:
        width = max(1, round(0.02 * np.hypot(*truth.shape)))
        known = np.vectorize(lambda v: at(v) is not None)(truth)
        for k, node in enumerate(TREE.level_nodes(level)):
            masks = [np.vectorize(lambda v, n=node: at(v) == at(n))(m) & known
                     for m in (labels, truth)]  # fmt: skip
            parts = []
            for mask in masks:
                eroded = binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)
                parts.append(mask & ~eroded[1:-1, 1:-1])
            totals[0, k] += (parts[0] & parts[1]).sum()
            totals[1, k] += (parts[0] | parts[1]).sum()
    return totals[0] / totals[1]


@pytest.mark.parametrize("max_cells", [None, 0])  # 0: as for many classes
@pytest.mark.parametrize("seed", range(2))
def test_every_level_equals_masks_one_at_a_time(seed, max_cells, monkeypatch):
    if max_cells is not None:
        monkeypatch.setattr(boundary, "_MAX_JOINT_CELLS", max_cells)
    rng = np.random.default_rng(seed)
    counts, cases = BoundaryCounts(TREE), []
    for shape in ((60, 80), (90, 51)):
        truth = blobs(rng, shape, [*range(TREE.num_nodes), 255])  # inner nodes and void
        labels = np.roll(truth, rng.integers(1, 3), axis=1)
        labels = np.where((labels == 255) | (rng.random(shape) < 0.02), 0, labels)
        unpredicted = blobs(rng, shape, [False] * 5 + [True])
        counts.add(labels, truth, unpredicted)
        cases.append((np.where(unpredicted, 999, labels), truth))
    for level in range(TREE.num_levels):
        np.testing.assert_allclose(counts.level_iou(level), iou_of_level(cases, level))
    assert counts.num_images == 2


@pytest.mark.parametrize("groups, dtype", [(13, np.uint8), (7, np.int8)])  # 273 and 147 nodes
def test_maps_of_8_bits_count_in_a_tree_whose_size_does_not_fit_them(groups, dtype):
    tree = Hierarchy.from_dict({f"g{i}": [f"{i}-{j}" for j in range(20)] for i in range(groups)})
    rng = np.random.default_rng(0)
    truth, labels = blobs(rng, (40, 50), 45), blobs(rng, (40, 50), 45)
    truth = np.where(rng.random(truth.shape) < 0.1, tree.num_nodes if groups == 13 else -1, truth)
    unpredicted = blobs(rng, truth.shape, [False, True])
    narrow, wide = BoundaryCounts(tree), BoundaryCounts(tree)
    wide.add(labels, truth, unpredicted)
    narrow.add(labels.astype(dtype), truth.astype(dtype) if groups == 7 else truth, unpredicted)
    np.testing.assert_array_equal(narrow.vector, wide.vector)


def test_void_and_empty_images_count_nothing():
    counts = BoundaryCounts(TREE)
    counts.add(np.zeros((5, 5), int), np.full((5, 5), 255))
    counts.add(np.zeros((0, 5), int), np.zeros((0, 5), int))
    assert np.isnan(counts.level_iou(0)).all() and counts.num_images == 2


def plain_detectron2(cases, num_classes, boundary_of):
    """What Detectron2's main does: pairs of classes are numbered in the 8 bits of label maps."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for case in cases:
        labels, truth = (boundary_of(values.astype(np.uint8)).reshape(-1) for values in case)
        pairs = np.bincount((num_classes + 1) * labels + truth, minlength=matrix.size)
        matrix += pairs.reshape(matrix.shape)
    right = matrix.diagonal()[:-1].astype(float)
    matrix = matrix[:-1, :-1]
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - right
    return np.divide(right, union, out=np.full(num_classes, np.nan), where=union > 0)


def plain_boundary(values):
    """The label map less its minimum, with SciPy's erosion."""
    width = max(1, int(round(0.02 * np.hypot(*values.shape))))
    eroded = minimum_filter(np.pad(values, 1), 2 * width + 1, mode="nearest")[1:-1, 1:-1]
    return values - eroded


@pytest.mark.parametrize("tree", [TREE, Hierarchy.load("cityscapes"), Hierarchy.load("ade20k_150")])
@pytest.mark.parametrize("seed", range(3))
def test_leaves_equal_detectron2_main(seed, tree):
    rng = np.random.default_rng(seed)
    leaves = tree.num_leaves
    counts, cases = BoundaryCounts(tree), []
    for shape in ((60, 80), (90, 51), (31, 7)):
        truth = blobs(rng, shape, leaves + 1)
        labels = np.where(rng.random(shape) < 0.05, rng.integers(0, leaves, shape), truth)
        labels = np.where(labels == leaves, 1, labels)
        counts.add(labels, np.where(truth == leaves, 255, truth))
        cases.append((labels, truth))
    expected = plain_detectron2(cases, leaves, plain_boundary)
    np.testing.assert_allclose(counts.detectron2_iou(), expected)
    if hasattr(SemSegEvaluator, "_mask_to_boundary"):  # Detectron2 0.6 has none
        stock = partial(SemSegEvaluator._mask_to_boundary, None)
        np.testing.assert_allclose(expected, plain_detectron2(cases, leaves, stock))
