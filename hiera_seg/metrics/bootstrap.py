"""Resample the images of a test set to estimate the noise of differences between runs.

The paired bootstrap (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13)
scores both runs on the same resamples of images, which cancels the variation that both share.
"""

from dataclasses import dataclass

import numpy as np

from hiera_seg.metrics.scores import class_iou

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95


def resample_weights(num_images: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """Draw resamples of images with replacement.

    They depend only on the two numbers. Resamples of runs that were scored at different times can
    therefore be paired.

    Returns:
        float64 (num_resamples, num_images), how often each image is in a resample.
    """
    shares = np.full(num_images, 1 / num_images)
    draws = np.random.default_rng(0).multinomial(num_images, shares, size=num_resamples)
    return draws.astype(np.float64)


def resampled_iou(weights: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Compute the IoU of each class in resamples of the images.

    Args:
        weights: float64 (R, M), from :func:`resample_weights`, or ones (1, M) for all images.
        totals: float64 (3, M, K), pixels of each class per image: those that are correct, of the
            ground truth, and of the prediction.

    Returns:
        float64 (R, K), fractions; NaN where no image of a resample has the class.
    """
    return class_iou(*(weights @ totals))


def mean_iou(iou: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Return the mean over scored classes that occur: (R, K) and bool (K,) to (R,), NaN if none."""
    counted = scored & ~np.isnan(iou)
    number = counted.sum(axis=-1)
    total = np.where(counted, iou, 0).sum(axis=-1)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


@dataclass(frozen=True)
class PairedDifference:
    """The difference between a score of one setup and that of another.

    Attributes:
        by_pair: float64 (P,), the difference of each pair of runs: one, or one per random seed.
        resampled: float64 (R,), its mean over pairs on each resample of the images; NaN where the
            score does not exist.
    """

    by_pair: np.ndarray
    resampled: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over pairs."""
        return float(np.mean(self.by_pair))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the central quantiles of the resamples; NaN if the score does not exist."""
        known = self.resampled[~np.isnan(self.resampled)]
        if len(known) == 0:
            return float("nan"), float("nan")
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def sign(self, confidence: float = CONFIDENCE) -> int:
        """Return 1 or -1 if the interval and every pair are on one side of zero, otherwise 0."""
        low, high = self.interval(confidence)
        return int(low > 0 and (self.by_pair > 0).all()) - int(
            high < 0 and (self.by_pair < 0).all()
        )
