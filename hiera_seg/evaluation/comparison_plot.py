"""Plot a comparison of runs: differences with their intervals."""

import os
from collections.abc import Sequence

from hiera_seg.disk import replace_file
from hiera_seg.evaluation.comparison import ComparedLevel, ComparedScore, Comparison

_MAX_CLASSES = 40  # shown per level, those with the largest differences


def plot_comparison(found: Sequence[Comparison], path: str | os.PathLike) -> None:
    """Draw one panel per level, with the difference of its mIoU and of the IoU of its classes.

    Args:
        found: comparisons with one baseline.
        path: path of the PNG file.
    """
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot

    num_levels = len(found[0].levels)
    shown = [_rows([one.levels[level] for one in found]) for level in range(num_levels)]
    rows = [len(names) for names in shown]
    height = 1 + 0.5 * num_levels + 0.22 * len(found) ** 0.5 * sum(rows)
    figure, axes = pyplot.subplots(
        num_levels, figsize=(7, height), squeeze=False, sharex=True, height_ratios=rows,
        layout="constrained",
    )  # fmt: skip
    for level, (axis, names) in enumerate(zip(axes[:, 0], shown, strict=True)):
        for index, one in enumerate(found):
            classes = {row.name: row for row in one.levels[level].classes}
            offset = 0.7 * ((index + 0.5) / len(found) - 0.5)
            for place, name in enumerate(names):
                row = one.levels[level].miou if place == 0 else classes[name]
                _draw(axis, row, place + offset, f"C{index}")
        left_out = len(found[0].levels[level].classes) + 1 - len(names)
        note = f"\n{left_out} smaller or absent differences not shown" if left_out else ""
        axis.set_title(f"{found[0].levels[level].name}{note}", fontsize=10)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.get_yticklabels()[0].set_fontweight("bold")
        axis.axvline(0, color="#999999", lw=1, zorder=0)
        axis.axhline(0.5, color="#dddddd", lw=1, zorder=0)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(axis="x", alpha=0.3)
    axes[-1, 0].set_xlabel(f"IoU difference to {found[0].baseline} (percentage points)", fontsize=9)
    marks = [
        pyplot.Line2D([], [], color=f"C{index}", marker="o", label=one.name)
        for index, one in enumerate(found)
    ]
    hollow = {"marker": "o", "color": "#666666", "markerfacecolor": "white"}
    marks.append(
        pyplot.Line2D([], [], **hollow, label="no difference beyond noise, or too few images")
    )
    figure.legend(handles=marks, loc="outside lower center", fontsize=8, ncols=len(marks))
    replace_file(path, lambda file: figure.savefig(file, format="png", dpi=110))
    pyplot.close(figure)


def _rows(levels: Sequence[ComparedLevel]) -> list[str]:
    """Return "mIoU" and the classes with the largest differences, in the order of the level."""
    largest: dict[str, float] = {}
    for row in (row for level in levels for row in level.classes):
        if row.difference == row.difference:  # not NaN
            largest[row.name] = max(largest.get(row.name, 0), abs(row.difference))
    kept = sorted(largest, key=largest.get, reverse=True)[:_MAX_CLASSES]
    return ["mIoU", *(row.name for row in levels[0].classes if row.name in kept)]


def _draw(axis, row: ComparedScore, place: float, color: str) -> None:
    certain = row.verdict in ("better", "worse")
    axis.plot([row.low, row.high], [place, place], color=color, lw=2 if certain else 1)
    face = color if certain else "white"
    axis.plot(row.difference, place, "o", color=color, markerfacecolor=face, ms=5)
