"""Accuracy against specificity: known answers, and a loop over pixels and thresholds."""

import json
import math

import numpy as np
import pytest

from hiera_seg import Hierarchy
from hiera_seg.metrics import SafeDepthCounts, node_information, safe_depth_curve

STREET = Hierarchy.from_dict(
    {"flat": ["road", "pavement"], "vehicle": ["car", "bus"]}, levels=["group", "class"]
)
RAGGED = Hierarchy.from_dict(
    {
        "sky": None,
        "ground": {"flat": ["road", "path"], "soil": None},
        "thing": {"vehicle": {"car": ["taxi", "van"], "bus": None}, "pole": None},
    }
)
ROAD, PAVEMENT, CAR, BUS = range(4)


def street_counts(**options):
    """The example of docs/metrics.md."""
    counts = SafeDepthCounts(STREET, **options)
    leaf = np.array([[ROAD, ROAD, PAVEMENT, CAR]])
    counts.add(leaf, [np.array([[0.9, 0.6, 0.3, 0.7]], np.float32)], np.full((1, 4), ROAD))
    return counts


def test_the_example_of_the_docs():
    curve = safe_depth_curve(street_counts(thresholds=(0, 0.5, 0.65, 0.8, 0.95, 1.1)))
    assert curve.thresholds.tolist() == [0, 0.5, 0.65, 0.8, 0.95]  # no walk passes the last one
    assert curve.accuracy.tolist() == [0.5, 0.75, 0.75, 0.75, 0.75]
    assert curve.specificity == pytest.approx([1, 7 / 8, 6 / 8, 5 / 8, 4 / 8])
    # right labels only: 2 leaves; 2 leaves and a group; a leaf and 2 groups; ...; 3 groups
    assert curve.information_gain == pytest.approx(np.array([2, 2.5, 2, 2, 1.5]) / 4)
    assert curve.reached.tolist() == [[1] * 5, [1, 0.75, 0.5, 0.25, 0]]
    # trapezoids from the right: 1/8 wide at (4/8, 6/8), 3/8 at 6/8, 4/8 at (6/8, 1)
    assert curve.area == pytest.approx(1 / 8 * 5 / 8 + 3 / 8 * 6 / 8 + 4 / 8 * 7 / 8)
    assert curve.num_pixels == 4


def test_the_information_of_a_node():
    assert node_information(STREET) == pytest.approx([1, 1, 1, 1, 0.5, 0.5])
    information = node_information(RAGGED)
    assert information[RAGGED["sky"]] == 1  # a leaf at any depth says all there is
    below = {"car": 2, "vehicle": 3, "thing": 4, "ground": 3}
    for name, leaves in below.items():
        expected = 1 - math.log(leaves) / math.log(RAGGED.num_leaves)
        assert information[RAGGED[name]] == pytest.approx(expected)
    assert node_information(Hierarchy.from_dict({"all": ["one"]})).tolist() == [1, 1]


def loop(h, leaf, limits, truth, threshold):
    """(accuracy, specificity, information gain) of one threshold, pixel by pixel."""
    right = told = reward = pixels = 0
    for i in np.ndindex(truth.shape):
        if truth[i] >= h.num_leaves:
            continue
        pixels += 1
        label = h.path(leaf[i])[0]
        for depth, node in enumerate(h.path(leaf[i])[1:]):
            if limits[depth][i] < threshold:
                break
            label = node
        leaves = [v for v in h.descendants(label) if v < h.num_leaves]
        gain = 1 - math.log(len(leaves)) / math.log(h.num_leaves)
        told += gain
        if truth[i] in leaves:
            right += 1
            reward += gain
    return right / pixels, told / pixels, reward / pixels


def random_walks(h, seed, shape=(13, 11)):
    rng = np.random.default_rng(seed)
    leaf = rng.integers(0, h.num_leaves, shape)
    truth = np.where(rng.random(shape) < 0.5, leaf, rng.integers(0, h.num_nodes, shape))
    truth[rng.random(shape) < 0.1] = 255
    scores = rng.random((h.num_levels - 1, *shape)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.float32(0.35)  # on a threshold: it passes
    return leaf, list(np.minimum.accumulate(scores)), truth


@pytest.mark.parametrize("h", [STREET, RAGGED], ids=["street", "ragged"])
def test_every_threshold_equals_a_loop_over_pixels(h):
    thresholds = (0, 0.1, 0.35, 0.5, 0.9, 2)
    walks = random_walks(h, 0)
    counts = SafeDepthCounts(h, thresholds)
    counts.add(*walks)
    curve = safe_depth_curve(counts)
    for i, threshold in enumerate(thresholds):
        found = curve.accuracy[i], curve.specificity[i], curve.information_gain[i]
        assert found == pytest.approx(loop(h, *walks, np.float32(threshold))), threshold
    assert (np.diff(curve.accuracy) >= 0).all() and (np.diff(curve.specificity) <= 0).all()
    assert curve.specificity[0] == 1
    assert 0.5 < curve.area < 1


def test_images_and_processes_add_up_exactly():
    together, parts = SafeDepthCounts(RAGGED), [SafeDepthCounts(RAGGED) for _ in range(2)]
    for seed in range(4):
        together.add(*random_walks(RAGGED, seed))
        parts[seed % 2].add(*random_walks(RAGGED, seed))
    parts[0].vector += parts[1].vector
    assert (parts[0].vector == together.vector).all()
    assert together.num_images == 4


def test_nothing_to_count_is_null():
    counts = SafeDepthCounts(RAGGED)
    assert math.isnan(safe_depth_curve(counts).area)
    leaf, limits, truth = random_walks(RAGGED, 0)
    counts.add(leaf, limits, np.full_like(truth, 255))
    counts.add(leaf, limits, np.full_like(truth, RAGGED["vehicle"]))  # no true leaf is known
    curve = json.loads(json.dumps(safe_depth_curve(counts).as_dict(), allow_nan=False))["overall"]
    assert curve["accuracy"] == curve["specificity"] == [None] and curve["area"] is None
    assert curve["thresholds"] == [0] and curve["pixels"] == 0


def test_scores_that_are_nan_stop_the_walk_at_the_top():
    counts = SafeDepthCounts(STREET)
    counts.add(np.array([[ROAD]]), [np.array([[np.nan]])], np.array([[PAVEMENT]]))
    curve = safe_depth_curve(counts)
    assert curve.accuracy.tolist() == [1] and curve.specificity.tolist() == [0.5]


def test_the_form_of_the_file():
    content = json.loads(json.dumps(safe_depth_curve(street_counts()).as_dict()))
    curve = content["overall"]
    assert list(content) == ["overall"] and set(curve) == {
        "thresholds", "accuracy", "specificity", "information_gain", "reached", "area", "pixels",
    }  # fmt: skip
    size = len(curve["thresholds"])
    assert list(curve["reached"]) == ["group", "class"]
    for values in (curve["accuracy"], curve["specificity"], *curve["reached"].values()):
        assert len(values) == size
    assert curve["thresholds"][:2] == [0, 0.0001] and curve["thresholds"][-1] == 0.91


def test_what_can_not_be_counted():
    leaf, limits, truth = random_walks(RAGGED, 0)
    counts = SafeDepthCounts(RAGGED)
    with pytest.raises(ValueError, match="2 maps of limits .* 4 levels"):
        counts.add(leaf, limits[:2], truth)
    with pytest.raises(ValueError, match="greedy path .*13 x 10.*13 x 11"):
        counts.add(leaf[:, 1:], limits, truth)
    with pytest.raises(ValueError, match="leaves holds .*0 to 12; .* 0 to 7"):
        counts.add(np.where(leaf == 1, 12, leaf), limits, truth)
