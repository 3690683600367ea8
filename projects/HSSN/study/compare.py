"""Compare results: differences between arms, and the pixels where they occur."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from hiera_seg.hierarchy import Hierarchy, as_hierarchy
from hiera_seg.metrics import PairedDifference, level_scores

from .design import ARMS, DATA
from .tables import prediction_interval

BASELINE = "flat"
Results = Mapping[str, dict[str, Any]]


def of(results: Results, stage: str, data: str, arm: str | None = None) -> list[dict[str, Any]]:
    """Return the results of a stage by seed."""
    found = [
        r for r in results.values()
        if r["stage"] == stage and r["data"] == data and arm in (None, r["arm"])
    ]  # fmt: skip
    return sorted(found, key=lambda r: r["seed"])


def arms_of(results: Results, stage: str, data: str) -> list[str]:
    """Return the arms that have results, in the plan's order; others (proposals) come last."""
    there = {r["arm"] for r in of(results, stage, data)}
    return [arm for arm in ARMS if arm in there] + sorted(there - set(ARMS))


@dataclass(frozen=True)
class Differences:
    """The difference of an arm's mIoU to the baseline's, for the seeds that both have.

    Attributes:
        by_seed: (seeds, levels), levels coarse to fine.
        resampled: (levels, resamples): the mean over seeds under resampled images.
    """

    by_seed: np.ndarray
    resampled: np.ndarray

    @property
    def ahead(self) -> np.ndarray:
        """(levels,) bool: the levels at which every seed is above zero."""
        return (self.by_seed > 0).all(axis=0)

    def interval(self, level: int) -> str:
        """Return the central 95 % of the resamples."""
        low, high = self.bounds(level)
        return f"[{low:+.2f}, {high:+.2f}]"

    def mean_and_interval(self, level: int) -> str:
        return f"{self.by_seed[:, level].mean():+.2f} {self.interval(level)}"

    def verdict(self, level: int) -> str:
        """Return ▲ or ▼ if the interval and every seed are on one side of zero, else ""."""
        return {1: "▲", -1: "▼", 0: ""}[self.of_level(level).sign()]

    def bounds(self, level: int) -> tuple[float, float]:
        """Return the 2.5 % and 97.5 % quantiles of the resamples."""
        return self.of_level(level).interval()

    def of_level(self, level: int) -> PairedDifference:
        return PairedDifference(self.by_seed[:, level], self.resampled[level])


def paired_differences(
    results: Results,
    stage: str,
    data: str,
    arm: str,
    baseline: str = BASELINE,
    baseline_stage: str = "",
) -> Differences | None:
    """Compare an arm with the baseline, seed by seed; return None without a common seed.

    `baseline_stage` is the stage of the baseline's runs, if it is not that of the arm's.
    """
    mine = {r["seed"]: r for r in of(results, stage, data, arm)}
    other = {r["seed"]: r for r in of(results, baseline_stage or stage, data, baseline)}
    pairs = [(mine[seed], other[seed]) for seed in sorted(mine.keys() & other.keys())]
    if not pairs:
        return None
    return Differences(
        np.array([np.subtract(a["metrics"]["mIoU"], b["metrics"]["mIoU"]) for a, b in pairs]),
        np.mean([np.subtract(a["bootstrap"], b["bootstrap"]) for a, b in pairs], axis=0),
    )


def gains(results: Results, stage: str, data: str, arm: str, *baseline: str) -> str:
    """Return the differences of :func:`paired_differences` at every level, fine to coarse."""
    found = paired_differences(results, stage, data, arm, *baseline)
    if found is None:
        return "?"
    names = of(results, stage, data, arm)[0]["levels"]
    return ", ".join(
        f"{found.mean_and_interval(level)} ({names[level]})"
        for level in reversed(range(len(names)))
    )


def gains_without_seed(results: Results, seed: int | str, *which: str) -> str:
    """Return the :func:`gains` of the other seeds."""
    return gains({k: r for k, r in results.items() if r["seed"] != int(seed)}, *which)


def next_seed(results: Results, stage: str, data: str, arm: str) -> str:
    """Return where the mIoU of one more seed should fall at every level, fine to coarse."""
    runs = of(results, stage, data, arm)
    if len(runs) < 2:
        return "?"
    levels = list(zip(runs[0]["levels"], *(r["metrics"]["mIoU"] for r in runs), strict=True))
    ends = {name: prediction_interval(scores) for name, *scores in levels[::-1]}
    return ", ".join(f"{low:.1f} to {high:.1f} ({name})" for name, (low, high) in ends.items())


def decoding_gains(results: Results, stage: str, data: str, arm: str, variant: str) -> str:
    """Return the gain of another decode variant of an arm's weights over its own."""
    runs = of(results, stage, data, arm)
    if not runs:
        return "?"
    found = [np.subtract(r["variants"][variant], r["variants"][r["variant"]]) for r in runs]
    means = np.mean(found, axis=0)
    levels = list(enumerate(runs[0]["levels"]))
    return ", ".join(f"{means[level]:+.2f} ({name})" for level, name in reversed(levels))


def places_of(result: dict[str, Any]) -> dict[str, float]:
    """Return percentages of one result by frequency of the leaf, by family, and by position."""
    confusion = np.array(result["confusion"], float)
    parents = tree_of(result["data"]).parent[: len(confusion)]
    family = parents[:, None] == parents[None, :]
    np.fill_diagonal(family, False)
    iou = leaf_iou(result)
    thirds = np.array_split(iou[leaves_by_frequency(result)], 3)
    near, away = (np.array(result["boundary"])[-1][place] for place in (0, 1))
    right, siblings = confusion.trace(), confusion[family].sum()
    return {
        "IoU of the most frequent third": thirds[0].mean(),
        "middle third": thirds[1].mean(),
        "rarest third": thirds[2].mean(),
        "pixels taken for a sibling": 100 * siblings / confusion.sum(),
        "for a leaf of another family": 100 * (1 - (right + siblings) / confusion.sum()),
        "accuracy near boundaries": 100 * near[0] / near[1],
        "away from them": 100 * away[0] / away[1],
    }


def tree_of(data: str) -> Hierarchy:
    return as_hierarchy(MetadataCatalog.get(DATA[data].train).hierarchy)


def leaf_iou(result: dict[str, Any]) -> np.ndarray:
    """Return the IoU of each leaf in percent."""
    return 100 * level_scores(np.array(result["confusion"])).iou


def leaves_by_frequency(result: dict[str, Any]) -> np.ndarray:
    """Return the leaves that occur in the test set, the most frequent one first."""
    pixels = np.array(result["confusion"]).sum(axis=0)
    return np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]
