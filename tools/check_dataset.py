#!/usr/bin/env python
"""Check registered datasets: print their problems, and the pixels per node."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiera_seg.cli.arguments import add_exif, add_import, tool_parser
from hiera_seg.cli.exit import exit_on_error

if TYPE_CHECKING:
    from hiera_seg.data.dataset_check import DatasetReport
    from hiera_seg.hierarchy import Hierarchy

EPILOG = """
examples:
  one dataset, or all splits of one
    tools/check_dataset.py hiera_camvid_train
    tools/check_dataset.py hiera_camvid
  a custom dataset, registered when my_datasets.py is imported
    tools/check_dataset.py my_dataset --import my_datasets

The exit code is 1 if there is a problem.
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="dataset, or the common start of its splits"
    )
    add_import(parser)
    parser.add_argument(
        "--quick", action="store_true", help="read only the sizes of images, but whole labels"
    )
    add_exif(parser)
    parser.add_argument(
        "--show", type=int, default=20, metavar="N", help="problems to list per dataset (20)"
    )
    args = parser.parse_args()
    if args.show < 0:
        parser.error("--show must be at least 0")
    return args


def main(args: argparse.Namespace) -> None:
    from hiera_seg.data.catalog import import_modules, require_registered
    from hiera_seg.data.dataset_check import check_dataset

    import_modules(args.modules, tool=__file__)
    names = [name for given in args.names for name in splits_of(given)]
    require_registered(names, "NAME")

    options = {"quick": args.quick, "exif": args.exif}
    reports = [check_dataset(name, progress=True, **options) for name in names]
    for report in reports:  # verdicts first, then tables
        print(verdict(report))
        for problem in report.problems[: args.show]:
            print(f"  {problem}")
        if len(report.problems) > args.show:
            print(f"  ... and {len(report.problems) - args.show} more (--show N lists more)")
        for warning in report.warnings:
            print(f"  warning: {warning}")
    readable = [report for report in reports if report.num_pixels]
    if readable:
        print(f"\n{format_reports(readable)}")
    if any(report.problems for report in reports):
        sys.exit(1)


def verdict(report: DatasetReport) -> str:
    found = f"{len(report.problems)} problem(s)" if report.problems else "no problems"
    return f"{report.name}: {found}, {report.num_images} images"


def format_reports(reports: Sequence[DatasetReport]) -> str:
    """Format tables of images, pixels and shares per node, datasets of one tree side by side."""
    groups: dict[Hierarchy, list[DatasetReport]] = {}
    for report in reports:
        groups.setdefault(report.hierarchy, []).append(report)
    return "\n\n".join(format_group(tree, group) for tree, group in groups.items())


def format_group(tree: Hierarchy, reports: list[DatasetReport]) -> str:
    def row(title: str, images: Sequence, pixels: Sequence) -> list[str]:
        cells = [title]
        for report, shown, count in zip(reports, images, pixels, strict=True):
            share = f"{100 * count / max(report.num_pixels, 1):.4f}"
            cells += [f"{shown}", f"{count}", share]
        return cells

    subtree = [report.subtree_pixels for report in reports]
    blank = [""] * len(reports)
    rows = [["node", *["images", "pixels", "share %"] * len(reports)]]
    for v in tree.depth_first.tolist():
        pad = "  " * int(tree.depth[v])
        images = [report.node_images[v] for report in reports]
        rows.append(row(pad + tree.node_names[v], images, [pixels[v] for pixels in subtree]))
        own = [report.node_pixels[v] for report in reports]
        if v >= tree.num_leaves and any(own):
            rows.append(row(f"{pad}  (no finer)", blank, own))
    rows.append(row("void", blank, [report.void_pixels for report in reports]))
    images = [report.num_images for report in reports]
    rows.append(row("all", images, [report.num_pixels for report in reports]))
    lines = align([report.name for report in reports], rows)
    for report in reports:
        for kind, (low, high, count) in report.image_values.items():
            lines.append(f"{report.name}: values {low:g} to {high:g} in {count} {kind} images")
        if report.num_pixels and report.absent_leaves:
            lines.append(f"{report.name}: no pixel of {', '.join(report.absent_leaves)}")
    return "\n".join(lines)


def align(names: list[str], rows: list[list[str]]) -> list[str]:
    """Align columns, and put each name above the three columns of its dataset."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    starts = range(1, len(widths), 3)
    heading = " " * widths[0]
    for name, start in zip(names, starts, strict=True):
        heading += "  " + name.rjust(sum(widths[start : start + 3]) + 4)
    lines = [heading]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return lines


def splits_of(name: str) -> list[str]:
    """Return the dataset of this name, or those with one more word."""
    from detectron2.data import DatasetCatalog

    if name in DatasetCatalog:
        return [name]
    more = [n for n in DatasetCatalog.list() if n.startswith(f"{name}_")]
    return [n for n in more if "_" not in n[len(name) + 1 :]] or [name]


if __name__ == "__main__":
    exit_on_error(main, parse_args())
