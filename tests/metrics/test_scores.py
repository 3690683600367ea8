"""Every number against a loop over pixels that knows nothing but the paths of the tree."""

import math
from collections import Counter

import numpy as np
import pytest

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import (
    PathCounts,
    confusion,
    hierarchy_scores,
    level_scores,
    mean_tree_distance,
)
from tests.random_trees import random_hierarchy

VOID = 255


def random_case(rng, tree, shape=(9, 11)):
    """Prediction, ground truth and direct labels, half of them right, coarse and void included."""
    n, leaves = tree.num_nodes, tree.num_leaves
    occurring = rng.choice(n, size=max(1, n // 2), replace=False)  # so that classes are absent
    truth = rng.choice(occurring, shape)
    labels = np.where(rng.random(shape) < 0.5, truth, rng.integers(0, n, shape))
    truth = np.where(rng.random(shape) < 0.2, VOID, truth)
    leaf = rng.integers(0, leaves, shape)
    direct = []
    for level in range(tree.num_levels):
        nodes = tree.level_nodes(level)
        path = nodes[tree.leaf_to_level(level)[leaf]]
        direct.append(np.where(rng.random(shape) < 0.6, path, rng.choice(nodes, shape)))
    return labels, truth, direct


def scores_by_loop(cases, tree):
    """The public metrics, by a loop over pixels and dictionaries of path tuples."""
    paths = [tuple(path.split("/")) for path in tree.paths]
    leaves = set(range(tree.num_leaves))
    levels = range(tree.num_levels)

    def at(node, level):
        path = paths[node]
        if len(path) > level:
            return path[: level + 1]
        return path if node in leaves else None

    merged, direct_pairs = [Counter() for _ in levels], [Counter() for _ in levels]
    distances, wrong_distances, valid, consistent = [], [], 0, 0
    for labels, truth, direct in cases:
        for pixel in np.ndindex(truth.shape):
            true = int(truth[pixel])
            if true == VOID:
                continue
            valid += 1
            predicted = int(labels[pixel])
            chosen = [paths[int(values[pixel])] for values in direct]
            deepest = chosen[-1]
            consistent += all(chosen[i] == deepest[: i + 1] for i in levels)
            for level in levels:
                if at(true, level) is not None:
                    merged[level][at(predicted, level), at(true, level)] += 1
                    direct_pairs[level][chosen[level], at(true, level)] += 1
            if true in leaves:
                a, b = paths[predicted], paths[true]
                common = sum(1 for i in range(min(len(a), len(b))) if a[: i + 1] == b[: i + 1])
                distances.append(len(a) + len(b) - 2 * common)
                if predicted != true:
                    wrong_distances.append(distances[-1])

    def mean(values):
        values = [v for v in values if not math.isnan(v)]
        return sum(values) / len(values) if values else math.nan

    def of_level(pairs, classes):
        total = sum(pairs.values())
        iou, acc, weighted = [], [], 0.0
        for c in classes:
            tp = pairs[c, c]
            fn = sum(n for (p, t), n in pairs.items() if t == c and p != c)
            fp = sum(n for (p, t), n in pairs.items() if p == c and t != c)
            iou.append(100 * tp / (tp + fp + fn) if tp + fn else math.nan)
            acc.append(100 * tp / (tp + fn) if tp + fn else math.nan)
            weighted += iou[-1] * (tp + fn) / total if tp + fn else 0
        right = sum(n for (p, t), n in pairs.items() if p == t)
        means = {
            "mIoU": mean(iou),
            "fwIoU": weighted if total else math.nan,
            "mACC": mean(acc),
            "pACC": 100 * right / total if total else math.nan,
        }
        return iou, acc, means

    result = {
        "consistency": 100 * consistent / valid if valid else math.nan,
        "tree_distance": mean(distances),
        "mistake_severity": mean(wrong_distances),
    }
    for level, name in enumerate(tree.level_names):
        nodes = tree.level_nodes(level).tolist()
        classes = [paths[v] for v in nodes]
        iou, acc, means = of_level(merged[level], classes)
        result |= {f"{key}_{name}": value for key, value in means.items()}
        result[f"mIoU_direct_{name}"] = of_level(direct_pairs[level], classes)[2]["mIoU"]
        prefixes = [f"{name}-"] + ([""] if level == tree.num_levels - 1 else [])
        for prefix in prefixes:
            for v, i, a in zip(nodes, iou, acc, strict=True):
                result[f"IoU-{prefix}{tree.display_names[v]}"] = i
                result[f"ACC-{prefix}{tree.display_names[v]}"] = a
        if level == tree.num_levels - 1:
            result |= means
    return result


def score(tree, cases):
    counts = PathCounts(tree, VOID)
    for labels, truth, direct in cases:
        counts.add(labels, truth, direct)
    return hierarchy_scores(counts).as_dict()


# None: as shipped; 0: every map counted alone, as in trees too large for a joint histogram;
# 2000: the direct labels of most of these trees together, the prediction alone.
@pytest.mark.parametrize("max_cells", [None, 0, 2000])
@pytest.mark.parametrize("seed", range(8))
def test_every_metric_equals_a_loop_over_pixels(seed, max_cells, monkeypatch):
    if max_cells is not None:
        monkeypatch.setattr(confusion, "_MAX_JOINT_CELLS", max_cells)
    rng = np.random.default_rng(seed)
    tree = random_hierarchy(rng)
    cases = [random_case(rng, tree) for _ in range(2)]

    found, expected = score(tree, cases), scores_by_loop(cases, tree)

    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key


@pytest.mark.parametrize("pixels_at_a_time", [7, 1000])
def test_cutting_an_image_into_parts_changes_nothing(pixels_at_a_time, monkeypatch):
    rng = np.random.default_rng(3)
    tree = random_hierarchy(rng)
    monkeypatch.setattr(confusion, "_MAX_JOINT_CELLS", 0)
    case = random_case(rng, tree, shape=(70, 90))
    whole = PathCounts(tree, VOID)
    whole.add(*case)
    monkeypatch.setattr(confusion, "_PIXELS_AT_A_TIME", pixels_at_a_time)
    parts = PathCounts(tree, VOID)
    parts.add(*case)
    for a, b in zip((parts.nodes, *parts.direct), (whole.nodes, *whole.direct), strict=True):
        np.testing.assert_array_equal(a.matrix, b.matrix)
    assert parts.consistent == whole.consistent


def test_all_void_is_nan_everywhere_without_a_warning(recwarn):
    rng = np.random.default_rng(1)
    tree = random_hierarchy(rng)
    labels, truth, direct = random_case(rng, tree)
    scores = score(tree, [(labels, np.full_like(truth, VOID), direct)])
    assert all(math.isnan(value) for value in scores.values())
    assert not recwarn.list


def test_example_of_the_docs():
    """The worked example of docs/metrics.md, figure by figure."""
    tree = Hierarchy.from_dict({"flat": ["road", "pavement"], "vehicle": ["car", "bus"]})
    road, pavement, car, bus = (tree[name] for name in ("road", "pavement", "car", "bus"))
    flat, vehicle = tree["flat"], tree["vehicle"]
    truth = np.array([[road, road, car, car]])
    labels = np.array([[road, pavement, bus, car]])
    direct = [np.array([[flat, flat, vehicle, flat]]), labels]
    scores = score(tree, [(labels, truth, direct)])
    expected = {
        "mIoU_level_0": 100,
        "mIoU": 50,
        "mIoU_direct_level_0": 100 * (2 / 3 + 1 / 2) / 2,
        "mIoU_direct_level_1": 50,
        "consistency": 75,
        "tree_distance": 1,
        "mistake_severity": 2,
    }
    assert {key: scores[key] for key in expected} == pytest.approx(expected)


def test_functions_take_plain_matrices():
    matrix = np.array([[3, 1], [0, 4]])
    scores = level_scores(matrix)
    np.testing.assert_allclose(scores.iou, [3 / 4, 4 / 5])
    np.testing.assert_allclose(scores.acc, [1, 4 / 5])
    np.testing.assert_allclose(scores.share, [3 / 8, 5 / 8])
    tree = Hierarchy.from_dict(["a", "b"])
    assert mean_tree_distance(matrix, tree) == 2 * 1 / 8
    assert mean_tree_distance(matrix, tree, wrong_only=True) == 2


def test_direct_scores_are_left_out_unless_every_image_had_direct_labels():
    rng = np.random.default_rng(5)
    tree = random_hierarchy(rng)
    counts = PathCounts(tree)
    labels, truth, direct = random_case(rng, tree)
    counts.add(labels, truth, direct)
    counts.add(labels, truth)
    scores = hierarchy_scores(counts)
    assert scores.direct is None and scores.consistency is None


UNSCORED_TREE = Hierarchy.from_dict(
    {"flat": ["road", "path"], "odd": ["group"], "vehicle": ["car", "bus", "heap"]},
    levels=["group", "class"],
)


def test_unscored_classes_count_as_errors_and_not_in_the_means():
    h = UNSCORED_TREE  # road 0, path 1, group 2, car 3, bus 4, heap 5
    counts = PathCounts(h, VOID)
    truth = np.array([[0, 0, 0, 2, 2, 3, 3, 5, VOID]])
    labels = np.array([[0, 0, 2, 2, 0, 3, 5, 5, 0]])
    counts.add(labels, truth)
    plain = hierarchy_scores(counts)
    scores = hierarchy_scores(counts, unscored=[h["group"], h["heap"]])
    # road 2 / (3 + 1), group 1 / 3, car 1 / 2, heap 1 / 2; path and bus do not occur
    iou = {"road": 2 / 4, "group": 1 / 3, "car": 1 / 2, "heap": 1 / 2}
    leaves = scores.merged[-1]
    assert dict(zip(h.leaf_names, leaves.iou, strict=True)) == pytest.approx(
        {**iou, "path": math.nan, "bus": math.nan}, nan_ok=True
    )
    assert np.array_equal(leaves.iou, plain.merged[-1].iou, equal_nan=True)
    assert leaves.miou == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert leaves.macc == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert leaves.fwiou == pytest.approx((2 / 4 * 3 + 1 / 2 * 2) / 5)
    assert leaves.pacc == plain.merged[-1].pacc == pytest.approx(5 / 8)
    assert scores.miou_all == pytest.approx(sum(iou.values()) / 4) == plain.merged[-1].miou
    # "odd" has unscored leaves alone, "vehicle" has others too.
    assert scores.merged[0].scored.tolist() == [True, False, True]
    assert scores.merged[0].miou == pytest.approx((2 / 4 + 3 / 3) / 2)


def test_void_classes_count_as_zero_in_the_mean_over_all():
    counts = PathCounts(UNSCORED_TREE, VOID)
    counts.add(np.array([[0, 3, 3]]), np.array([[0, 3, VOID]]))
    scores = hierarchy_scores(counts, num_void_classes=2)
    assert scores.merged[-1].miou == 1
    assert scores.miou_all == pytest.approx(2 / 4)
    assert scores.as_dict()["mIoU_all"] == pytest.approx(50)
    assert "mIoU_all" not in hierarchy_scores(counts).as_dict()


def test_direct_means_leave_the_same_classes_out():
    h, rng = UNSCORED_TREE, np.random.default_rng(0)
    counts = PathCounts(h, VOID)
    truth, labels = rng.integers(0, 6, (2, 9, 9))
    counts.add(labels, truth, [h.level_nodes(i)[h.leaf_to_level(i)[labels]] for i in range(2)])
    scores = hierarchy_scores(counts, unscored=[5])
    for merged, direct in zip(scores.merged, scores.direct, strict=True):
        assert merged.miou == direct.miou  # the direct labels are the path
