"""The paired bootstrap, against loops."""

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
