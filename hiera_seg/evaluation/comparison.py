"""Compare runs on one test set, and find the differences that exceed the noise of its images."""

import dataclasses
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from hiera_seg.disk import json_data
from hiera_seg.errors import DatasetError
from hiera_seg.evaluation.image_counts import FILE_NAME, ImageCounts
from hiera_seg.evaluation.tables import number_style
from hiera_seg.metrics import (
    PairedDifference,
    mean_iou,
    resample_weights,
    resampled_iou,
    scored_classes,
)
from hiera_seg.metrics.bootstrap import CONFIDENCE, NUM_RESAMPLES

NO_DIFFERENCE = "no difference beyond noise"
TOO_FEW = "too few images"
_MIN_IMAGES = 5  # with fewer, resamples underestimate the noise
_VERDICTS = {0: NO_DIFFERENCE, 1: "better", -1: "worse"}


@dataclass(frozen=True)
class ComparedScore:
    """A score of a setup and of the baseline, in percent; NaN where it does not exist.

    Attributes:
        name: "mIoU", or the name of a class for its IoU.
        baseline, score: the two scores, means over the runs of each setup.
        difference: ``score - baseline``.
        low, high: the interval of the difference under resampled images.
        verdict: "better" or "worse" if the interval and the difference of every pair of runs are on
            one side of zero, otherwise "no difference beyond noise"; "too few images" below 5.
        num_images: images with the class in the ground truth; for "mIoU" all images.
    """

    name: str
    baseline: float
    score: float
    difference: float
    low: float
    high: float
    verdict: str
    num_images: int


@dataclass(frozen=True)
class ComparedLevel:
    """The mIoU of a level and the IoU of its classes, in the order of ``level_nodes``."""

    name: str
    miou: ComparedScore
    classes: tuple[ComparedScore, ...]


@dataclass(frozen=True)
class Comparison:
    """A setup against a baseline.

    Attributes:
        baseline, name: names of the two setups.
        num_pairs: number of runs of each, one per random seed.
        num_images: number of images of the test set.
        levels: the levels, coarse to fine.
    """

    baseline: str
    name: str
    num_pairs: int
    num_images: int
    levels: tuple[ComparedLevel, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON file; None for NaN."""
        return json_data(dataclasses.asdict(self))


def read_run(folder: str | os.PathLike) -> ImageCounts:
    """Read the counts of a run.

    Args:
        folder: OUTPUT_DIR of an evaluation, or its file ``image_counts.npz``.

    Raises:
        DatasetError: the file does not exist or cannot be read, or the folder holds several.
    """
    path = Path(folder)
    places = [FILE_NAME, f"inference/*/{FILE_NAME}"]  # of one test set, of several
    found = [path] if path.is_file() else [f for place in places for f in sorted(path.glob(place))]
    if len(found) != 1:
        files = ", ".join(map(str, found))
        raise DatasetError(
            f"run {path}: found {len(found)} files {FILE_NAME} of evaluations; "
            + (f"pass one of {files}" if found else "pass an OUTPUT_DIR, or evaluate it again")
        )
    return ImageCounts.load(found[0])


def compare_runs(
    baseline: Sequence[ImageCounts],
    other: Sequence[ImageCounts],
    *,
    names: tuple[str, str] = ("baseline", "other"),
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare the runs of two setups on one test set by a paired bootstrap over its images.

    Args:
        baseline, other: the same number of runs; the i-th runs are a pair, such as one random seed.
        names: names of baseline and other.
        num_resamples: number of resamples of the images.
        confidence: confidence level of the intervals.

    Raises:
        DatasetError: the runs have different trees or test sets, or their numbers differ.
    """
    if len(baseline) != len(other):
        raise DatasetError(
            f"{names[0]} has {len(baseline)} runs, but {names[1]} {len(other)}; pass pairs of runs"
        )
    first = baseline[0]
    for run in itertools.chain(baseline[1:], other):
        check_comparable(first, run, names)
    weights = resample_weights(len(first.images), num_resamples)
    scored = scored_classes(first.hierarchy, first.unscored)
    levels = []
    for level, level_name in enumerate(first.hierarchy.level_names):
        sides = [
            [_level_iou(run, level, weights, scored[level]) for run in runs]
            for runs in (baseline, other)
        ]
        present = (first.class_totals(level)[1] > 0).sum(axis=0)
        nodes = first.hierarchy.level_nodes(level)
        class_names = [first.hierarchy.display_names[v] for v in nodes]
        rows = [
            _compared(name, sides, index, number, confidence)
            for index, (name, number) in enumerate(
                zip(["mIoU", *class_names], [len(first.images), *present.tolist()], strict=True)
            )
        ]
        levels.append(ComparedLevel(level_name, rows[0], tuple(rows[1:])))
    return Comparison(*names, len(baseline), len(first.images), tuple(levels))


def _level_iou(run: ImageCounts, level: int, weights: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Return (1 + R, 1 + K): mIoU and IoU of classes, of the images as they are and resampled."""
    totals = run.class_totals(level)
    iou = resampled_iou(np.concatenate([np.ones((1, weights.shape[1])), weights]), totals)
    return 100 * np.concatenate([mean_iou(iou, scored)[:, None], iou], axis=1)


def _compared(
    name: str,
    sides: Sequence[Sequence[np.ndarray]],
    index: int,
    num_images: int,
    confidence: float,
) -> ComparedScore:
    first, second = (np.stack([run[:, index] for run in runs]) for runs in sides)
    difference = PairedDifference(
        second[:, 0] - first[:, 0], np.mean(second[:, 1:] - first[:, 1:], axis=0)
    )
    low, high = difference.interval(confidence)
    return ComparedScore(
        name=name,
        baseline=float(first[:, 0].mean()),
        score=float(second[:, 0].mean()),
        difference=difference.mean,
        low=low,
        high=high,
        verdict=_VERDICTS[difference.sign(confidence)] if num_images >= _MIN_IMAGES else TOO_FEW,
        num_images=num_images,
    )


def check_comparable(first: ImageCounts, other: ImageCounts, names: tuple[str, str]) -> None:
    """Check that two runs have the same tree, images and ground truth.

    Raises:
        DatasetError: they do not; the message names the difference.
    """
    if (first.hierarchy, first.images) != (other.hierarchy, other.images):
        parts = ({*run.hierarchy.paths, *run.images} for run in (first, other))
        only = sorted(set.symmetric_difference(*parts))
        detail = f"{only[0]!r} is in only one" if only else "order or level names differ"
        sides = [
            f"tree {run.hierarchy.name!r} on {len(run.images)} images of {run.dataset!r}"
            for run in (first, other)
        ]
        raise DatasetError(
            f"{' and '.join(names)}: their trees or test sets differ ({', '.join(sides)}): "
            f"{detail}; compare runs with the same tree and test set"
        )
    truths = [np.stack([x.rows, x.columns, x.counts]) for x in (first.truth(), other.truth())]
    if not np.array_equal(*truths) or first.unscored != other.unscored:
        only = set.symmetric_difference(*(set(zip(*cells, strict=True)) for cells in truths))
        where = f" of {first.images[min(only)[0]]}" if only else ""
        raise DatasetError(
            f"{' and '.join(names)}: the ground truth{where} differs; evaluate both on the same "
            "label files"
        )


def comparison_tables(found: Comparison) -> str:
    """Format a comparison: one table of levels, and one of the classes of each level."""
    seeds = f", {found.num_pairs} pairs of runs" if found.num_pairs > 1 else ""
    parts = [f"{found.name} against {found.baseline}: {found.num_images} images{seeds}"]
    header = [found.baseline, found.name, "difference", "interval", ""]
    rows = [[level.name, *_cells(level.miou)] for level in found.levels]
    parts.append(_table(["level: mIoU", *header], rows))
    for level in found.levels:
        rows = [[row.name, str(row.num_images), *_cells(row)] for row in level.classes]
        parts.append(_table([f"{level.name}: IoU", "images", *header], rows))
    return "\n\n".join(parts)


def _cells(row: ComparedScore) -> list[str]:
    if math.isnan(row.difference):
        return ["-"] * 5
    interval = f"[{row.low:+.2f}, {row.high:+.2f}]"
    scores = [f"{row.baseline:.2f}", f"{row.score:.2f}", f"{row.difference:+.2f}", interval]
    return [*scores, row.verdict]


def _table(header: list[str], rows: list[list[str]]) -> str:
    style = number_style(len(header))
    style["colalign"][-1] = "left"
    return tabulate(rows, header, **style)
