#!/usr/bin/env python
"""Compare evaluations on one test set, and tell differences from the noise of its images."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_folder
from hiera_seg.disk import replace_file, replace_text

if TYPE_CHECKING:
    from hiera_seg.evaluation.comparison import ComparedLevel, ComparedScore, Comparison

MAX_CLASSES = 40  # drawn per level, those with the largest differences

EPILOG = """
RUN is the OUTPUT_DIR of an evaluation (of tools/train_net.py or tools/evaluate_predictions.py). The
first run is the baseline. Runs of one setup with several random seeds are joined by commas; the
i-th run of a setup is paired with the i-th run of the baseline.

examples:
  tools/compare_runs.py output/flat output/hssn
  tools/compare_runs.py output/flat_s0,output/flat_s1 output/hssn_s0,output/hssn_s1 --output seeds
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("baseline", metavar="RUN_A", help="run, or runs joined by commas")
    parser.add_argument("others", metavar="RUN_B", nargs="+", help="what is compared with it")
    parser.add_argument(
        "--output", metavar="DIR", default="comparison",
        help="folder of comparison.json and comparison.png (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the images (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="of the intervals (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.resamples < 1:
        parser.error(f"--resamples: {args.resamples} is below 1")
    if not 0 < args.confidence < 1:
        parser.error(f"--confidence: {args.confidence} is not between 0 and 1")
    return args


def main(args: argparse.Namespace) -> None:
    from hiera_seg.evaluation.comparison import compare_runs, comparison_tables, read_run

    setups = [setup.split(",") for setup in (args.baseline, *args.others)]
    names = short_names([setup[0] for setup in setups])
    runs = [[read_run(folder) for folder in setup] for setup in setups]
    prepare_folder(args.output, "--output")
    found = [
        compare_runs(
            runs[0],
            other,
            names=(names[0], name),
            num_resamples=args.resamples,
            confidence=args.confidence,
        )
        for name, other in zip(names[1:], runs[1:], strict=True)
    ]
    print("\n\n\n".join(comparison_tables(one) for one in found))
    print(
        f"\ninterval: {100 * args.confidence:g} % of {args.resamples} resamples of the images. Of "
        f"many classes, {100 * (1 - args.confidence):.2g} % differ by chance alone."
    )
    content = {
        "resamples": args.resamples,
        "confidence": args.confidence,
        "comparisons": [
            {"runs": {"baseline": setups[0], "other": setup}, **one.as_dict()}
            for setup, one in zip(setups[1:], found, strict=True)
        ],
    }
    plot = os.path.join(args.output, "comparison.png")
    table = os.path.join(args.output, "comparison.json")
    replace_text(table, json.dumps(content, indent=1, allow_nan=False))
    plot_comparison(found, plot)
    print(f"wrote {table} and {plot}")


def short_names(folders: list[str]) -> list[str]:
    """Return the shortest ends of paths that tell them apart."""
    parts = [os.path.abspath(folder).split(os.sep) for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(folders)):
            return names
    return folders


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
    shown = [shown_rows([one.levels[level] for one in found]) for level in range(num_levels)]
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
                draw_score(axis, row, place + offset, f"C{index}")
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


def shown_rows(levels: Sequence[ComparedLevel]) -> list[str]:
    """Return "mIoU" and the classes with the largest differences, in the order of the level."""
    largest: dict[str, float] = {}
    for row in (row for level in levels for row in level.classes):
        if row.difference == row.difference:  # not NaN
            largest[row.name] = max(largest.get(row.name, 0), abs(row.difference))
    kept = sorted(largest, key=largest.get, reverse=True)[:MAX_CLASSES]
    return ["mIoU", *(row.name for row in levels[0].classes if row.name in kept)]


def draw_score(axis, row: ComparedScore, place: float, color: str) -> None:
    certain = row.verdict in ("better", "worse")
    axis.plot([row.low, row.high], [place, place], color=color, lw=2 if certain else 1)
    face = color if certain else "white"
    axis.plot(row.difference, place, "o", color=color, markerfacecolor=face, ms=5)


if __name__ == "__main__":
    exit_on_error(main, parse_args())
