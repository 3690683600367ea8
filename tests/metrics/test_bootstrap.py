"""The paired bootstrap, against loops, and its intervals on simulated test sets."""

import math

import numpy as np
import pytest

from hiera_seg.metrics import PairedDifference, mean_iou, resample_weights, resampled_iou


def test_resamples_depend_on_the_number_of_images_alone():
    weights = resample_weights(7, 50)
    assert weights.shape == (50, 7) and (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, resample_weights(7, 50))
    # Results of the study that were resampled before are still paired with new ones.
    assert resample_weights(5, 2).tolist() == [[1, 0, 0, 0, 4], [2, 2, 0, 1, 0]]


def test_resampled_iou_is_that_of_the_images_repeated():
    rng = np.random.default_rng(0)
    images, classes = 6, 3
    right = rng.integers(0, 5, (images, classes))
    truth, predicted = right + rng.integers(0, 5, (2, images, classes))
    truth[1:, 2] = right[1:, 2] = 0  # a class of the first image only
    weights = resample_weights(images, 20)
    found = resampled_iou(weights, np.stack([right, truth, predicted]))
    scored = np.array([True, True, False])
    for weight, iou, mean in zip(weights, found, mean_iou(found, scored), strict=True):
        drawn = np.repeat(np.arange(images), weight.astype(int))
        for c in range(classes):
            tp, t, p = (part[drawn, c].sum() for part in (right, truth, predicted))
            expected = tp / (t + p - tp) if t else math.nan
            assert iou[c] == pytest.approx(expected, nan_ok=True)
        assert mean == pytest.approx(iou[:2].mean())
    assert np.isnan(found[:, 2]).any() and not np.isnan(found[:, 2]).all()


def test_a_difference_needs_the_interval_and_every_pair_on_one_side():
    resampled = np.linspace(1, 2, 101)
    assert PairedDifference(np.array([1.0, 2.0]), resampled).sign() == 1
    assert PairedDifference(-np.array([1.0, 2.0]), -resampled).sign() == -1
    assert PairedDifference(np.array([3.0, -0.1]), resampled).sign() == 0
    assert PairedDifference(np.array([1.0]), resampled - 1.1).sign() == 0
    assert PairedDifference(np.array([1.0]), resampled).interval(0.9) == pytest.approx((1.05, 1.95))
    absent = PairedDifference(np.array([math.nan]), np.full(5, math.nan))
    assert absent.sign() == 0 and all(math.isnan(end) for end in absent.interval())


def simulate(rng, images, gain):
    """Two runs on images of different difficulty; the second is right more often by `gain`.

    Returns:
        Two (3, images, 2) of totals of two classes with as many pixels.
    """
    difficulty = rng.normal(0, 0.1, images)  # shared by both runs
    runs = []
    for shift in (0, gain):
        rate = np.clip(0.7 + shift + difficulty + rng.normal(0, 0.05, images), 0, 1)
        right = rng.binomial(1000, rate[:, None], (images, 2))
        truth = np.full((images, 2), 1000)
        runs.append(np.stack([right, truth, right + (truth - right)[:, ::-1]]))
    return runs


@pytest.mark.parametrize("gain", [0.0, 0.03])
def test_intervals_cover_the_true_difference_as_often_as_they_say(gain):
    rng = np.random.default_rng(1)
    large = np.random.default_rng(2)
    first, second = (run.sum(axis=1, keepdims=True) for run in simulate(large, 200_000, gain))
    one = np.ones((1, 1))
    true = float((resampled_iou(one, second) - resampled_iou(one, first)).mean())
    weights = resample_weights(100, 400)
    covered = decided = 0
    for _ in range(300):
        first, second = simulate(rng, 100, gain)
        resampled = (resampled_iou(weights, second) - resampled_iou(weights, first)).mean(axis=1)
        found = PairedDifference(np.array([resampled.mean()]), resampled)
        low, high = found.interval()
        covered += low <= true <= high
        decided += found.sign() != 0
    # 95 % of 300 are 285, with a standard deviation of 3.8.
    assert 272 <= covered <= 296
    if gain:
        assert decided > 270  # a difference of four standard errors is found
    else:
        assert decided <= 28  # and one of zero is called noise
