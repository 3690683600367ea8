#!/usr/bin/env python
"""Check registered datasets: print their problems, and the pixels per node."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hiera_seg.cli.arguments import add_exif, add_import, tool_parser
from hiera_seg.cli.exit import exit_on_error

if TYPE_CHECKING:
    from hiera_seg.data.dataset_check import DatasetReport

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
    from hiera_seg.data.dataset_check import check_dataset, format_reports

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
    return f"{report.name}: {found}, {report.num_images} images with a label"


def splits_of(name: str) -> list[str]:
    """Return the dataset of this name, or those with one more word."""
    from detectron2.data import DatasetCatalog

    if name in DatasetCatalog:
        return [name]
    more = [n for n in DatasetCatalog.list() if n.startswith(f"{name}_")]
    return [n for n in more if "_" not in n[len(name) + 1 :]] or [name]


if __name__ == "__main__":
    exit_on_error(main, parse_args())
