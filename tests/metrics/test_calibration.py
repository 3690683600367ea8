"""Calibration error per level: known answers, and a loop over pixels."""

import json
import math

import numpy as np
import pytest

from hiera_seg import Hierarchy
from hiera_seg.metrics import CalibrationCounts, level_calibrations

TREE = Hierarchy.from_dict(
    {"sky": None, "flat": ["road", "path"], "vehicle": {"car": ["taxi", "van"], "bus": None}},
    levels=["group", "kind", "class"],
)


def random_image(seed, shape=(14, 9)):
    """Labels, a score a level, and truth; with inner nodes on both sides, and void."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, TREE.num_nodes, shape)
    truth = np.where(rng.random(shape) < 0.6, labels, rng.integers(0, TREE.num_nodes, shape))
    truth[rng.random(shape) < 0.1] = 255
    return labels, list(rng.random((TREE.num_levels, *shape)).astype(np.float32)), truth


def loop(level, labels, scores, truth, num_bins):
    """(ece, counts) of one level, pixel by pixel."""
    ancestor = TREE.level_ancestor[level]
    bins = [[] for _ in range(num_bins)]
    for i in np.ndindex(truth.shape):
        if truth[i] < TREE.num_nodes and ancestor[truth[i]] >= 0 and ancestor[labels[i]] >= 0:
            score = float(scores[level][i])
            number = min(int(score * num_bins), num_bins - 1)
            bins[number].append((score, ancestor[truth[i]] == ancestor[labels[i]]))
    total = sum(map(len, bins))
    gaps = [
        len(b) * abs(np.mean([x for x, _ in b]) - np.mean([y for _, y in b])) for b in bins if b
    ]
    return sum(gaps) / total, [len(b) for b in bins]


def test_every_level_equals_a_loop_over_pixels():
    image = random_image(0)
    counts = CalibrationCounts(TREE, num_bins=7)
    counts.add(*image)
    for level, found in enumerate(level_calibrations(counts)):
        ece, pixels = loop(level, *image, 7)
        assert found.ece == pytest.approx(ece, abs=1e-6)
        assert found.count.tolist() == pixels
    assert sum(pixels) < np.count_nonzero(image[2] < 255)  # inner nodes do not reach the leaves


def test_scores_with_known_answers():
    """Ten pixels of score 0.75: the gap is what their share of right ones is away from it."""
    road, path = TREE["road"], TREE["path"]
    for num_right, ece in ((10, 0.25), (5, 0.25), (0, 0.75)):
        truth = np.array([[road] * num_right + [path] * (10 - num_right)])
        counts = CalibrationCounts(TREE, num_bins=10)
        counts.add(np.full((1, 10), road), [np.full((1, 10), 0.75)] * 3, truth)
        group, kind, leaf = level_calibrations(counts)
        assert leaf.ece == pytest.approx(ece) and kind.ece == leaf.ece
        assert group.ece == pytest.approx(0.25)  # flat is right everywhere
        assert leaf.count.tolist() == [0] * 7 + [10, 0, 0]
        assert leaf.confidence[7] == pytest.approx(0.75) and leaf.accuracy[7] == num_right / 10
    # two bins, off in opposite directions, do not cancel
    counts = CalibrationCounts(TREE)
    counts.add(np.array([[road, road]]), [np.array([[0.0, 1.0]])] * 3, np.array([[road, path]]))
    assert level_calibrations(counts)[-1].ece == 1


def test_scores_outside_0_to_1_and_nan():
    road = np.full((1, 3), TREE["road"])
    counts = CalibrationCounts(TREE, num_bins=4)
    counts.add(road, [np.array([[1.7, np.nan, -0.1]])] * 3, road)
    for level in level_calibrations(counts):
        assert level.count.tolist() == [2, 0, 0, 1]
        assert level.confidence[[0, 3]].tolist() == [0, 1]
        assert level.ece == pytest.approx(2 / 3)


def test_images_and_processes_add_up_exactly():
    """Also the sums of scores, in any order."""
    together, parts = CalibrationCounts(TREE), [CalibrationCounts(TREE) for _ in range(2)]
    for seed in (0, 1, 2, 3):
        together.add(*random_image(seed))
    for seed in (3, 0, 2, 1):
        parts[seed % 2].add(*random_image(seed))
    parts[0].vector += parts[1].vector
    assert (parts[0].vector == together.vector).all()
    assert together.num_images == 4


def test_the_form_of_the_file():
    counts = CalibrationCounts(TREE)
    empty = level_calibrations(counts)[0].as_dict()
    assert empty["ece"] is None and math.isnan(level_calibrations(counts)[0].ece)
    counts.add(*random_image(0, shape=(60, 60)))
    level = json.loads(json.dumps(level_calibrations(counts)[-1].as_dict(), allow_nan=False))
    assert set(level) == {"bins", "ece"} and len(level["bins"]) == 15
    for i, found in enumerate(level["bins"]):
        assert set(found) == {"low", "high", "confidence", "accuracy", "count"}
        assert found["low"] == pytest.approx(i / 15) and found["high"] == pytest.approx(
            (i + 1) / 15
        )
        assert found["low"] <= found["confidence"] <= found["high"]
    assert empty["bins"][0] == {
        "low": 0.0, "high": pytest.approx(1 / 15), "confidence": None, "accuracy": None, "count": 0,
    }  # fmt: skip


def test_what_can_not_be_counted():
    labels, scores, truth = random_image(0)
    counts = CalibrationCounts(TREE)
    with pytest.raises(ValueError, match="2 maps of scores for the 3 levels"):
        counts.add(labels, scores[:2], truth)
    with pytest.raises(ValueError, match="labels or scores .*14 x 8.*14 x 9"):
        counts.add(labels, [s[:, 1:] for s in scores], truth)
    with pytest.raises(ValueError, match=r"labels holds .*200 to 200; .* 0 to 8"):
        counts.add(np.full_like(labels, 200), scores, truth)
