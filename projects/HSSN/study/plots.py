"""Draw the plots of the study's pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from .compare import (
    BASELINE,
    Results,
    arms_of,
    leaf_iou,
    leaves_by_frequency,
    of,
    paired_differences,
)
from .design import title_of

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def plot_differences(
    results: Results,
    datasets: Sequence[str],
    path: Path,
    *,
    names: Mapping[str, str] | None = None,
) -> None:
    """Draw the differences of arms to the baseline with their intervals.

    Args:
        results: all of the study.
        datasets: a row of panels for each of them, a panel per level.
        path: the image.
        names: of the arms to draw; default: all arms, by their own names.
    """
    rows = []
    for data in datasets:
        found = {
            arm: paired_differences(results, "main", data, arm)
            for arm in (names or arms_of(results, "main", data))
            if arm != BASELINE
        }
        found = {arm: differences for arm, differences in found.items() if differences is not None}
        if found:
            rows.append((data, of(results, "main", data)[0]["levels"], found))
    if not rows:
        return
    columns = max(len(levels) for _, levels, _ in rows)
    heights = [0.5 + 0.42 * (len(found) + 1) for *_, found in rows]
    size = (3.6 * columns, sum(heights))
    figure, grid = plt.subplots(
        len(rows), columns, figsize=size, height_ratios=heights, squeeze=False
    )
    for (data, levels, found), axes in zip(rows, grid, strict=True):
        for axis in axes[len(levels) :]:
            axis.set_axis_off()
        for level, axis in zip(reversed(range(len(levels))), axes, strict=False):
            for row, differences in enumerate(found.values()):
                seeds = differences.by_seed[:, level]
                axis.plot(differences.bounds(level), [row, row], color="#4477aa", lw=2)
                axis.plot(seeds, [row] * len(seeds), "|", color="#222222", ms=9)
                axis.plot(seeds.mean(), row, "o", color="#222222", ms=5)
            axis.axvline(0, color="#999999", lw=1)
            axis.set_title(f"{levels[level]}: mIoU less {BASELINE}", fontsize=10)
            axis.grid(axis="x", alpha=0.3)
            axis.set_yticks(range(len(found)), [])
            axis.set_ylim(len(found) - 0.5, -0.5)
        axes[0].set_ylabel(title_of(data))
        axes[0].set_yticklabels([(names or {}).get(arm, arm) for arm in found])
    _save(figure, path)


def plot_curves(results: Results, data: str, path: Path) -> None:
    """Draw the mIoU of validation images during training, one panel per level, one line per run."""
    runs = [r for r in of(results, "main", data) if r.get("curve")]
    levels = runs[0]["levels"]
    figure, axes = plt.subplots(1, len(levels), figsize=(3.6 * len(levels), 3))
    arms = [arm for arm in arms_of(results, "main", data) if any(r["arm"] == arm for r in runs)]
    for level, axis in zip(reversed(range(len(levels))), axes, strict=True):
        for color, arm in enumerate(arms):
            for i, r in enumerate(r for r in runs if r["arm"] == arm):
                curve = np.array(r["curve"])
                label = None if i else arm
                axis.plot(curve[:, 0], curve[:, 1 + level], f"C{color}", lw=1, label=label)
        axis.set_title(f"{levels[level]}: mIoU", fontsize=10)
        axis.set_xlabel("iteration", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    _save(figure, path)


def plot_leaves(results: Results, data: str, path: Path) -> None:
    """Draw the mean difference of each leaf's IoU to the baseline's, frequent leaves first."""
    arms = [arm for arm in arms_of(results, "main", data) if arm != BASELINE]
    base = {r["seed"]: leaf_iou(r) for r in of(results, "main", data, BASELINE)}
    rows = {}
    for arm in arms:
        pairs = [(leaf_iou(r), r["seed"]) for r in of(results, "main", data, arm)]
        found = [iou - base[seed] for iou, seed in pairs if seed in base]
        if found:
            rows[arm] = np.mean(found, axis=0)
    if not rows:
        return
    result = of(results, "main", data, BASELINE)[0]
    order = leaves_by_frequency(result)
    values = np.array([row[order] for row in rows.values()])
    end = np.nanmax(np.abs(values)) or 1.0
    figure, axis = plt.subplots(figsize=(2.6 + 0.34 * len(order), 1.5 + 0.34 * len(rows)))
    image = axis.imshow(values, cmap="RdBu", vmin=-end, vmax=end, aspect="auto")
    axis.set_yticks(range(len(rows)), list(rows))
    names = [result["leaves"][leaf] for leaf in order]
    axis.set_xticks(range(len(order)), names, rotation=60, ha="right", fontsize=8)
    axis.set_title(f"IoU less {BASELINE}; the most frequent leaf on the left", fontsize=10)
    figure.colorbar(image, ax=axis)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
