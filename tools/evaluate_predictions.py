#!/usr/bin/env python
"""Score label maps that any framework wrote: every metric per level, without model or config."""

import argparse
import logging
import os
import sys

from hiera_seg.cli.arguments import add_exif, add_import, tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_file, prepare_folder
from hiera_seg.errors import ConfigError

EPILOG = """
FOLDER holds one label map per image, at any depth: PNG of 8 or 16 bits, grey or palette, or .npy.
Its stem is that of the image (or of the image's label file), with --suffix at its end. A pixel
that is predicted as void counts as wrong.

examples:
  ids as in the dataset's own label files
    tools/evaluate_predictions.py hiera_cityscapes_val results/ --suffix _pred
  ids of another framework; ids.yaml has lines like `7: road` and `0: null`
    tools/evaluate_predictions.py hiera_camvid_test results/ --label-map ids.yaml
  node ids, with an html report
    tools/evaluate_predictions.py my_val results/ --import my_datasets --label-map node \\
        --report report.html
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("dataset", metavar="DATASET", help="a registered dataset")
    parser.add_argument("folder", metavar="FOLDER", help="folder of the predictions")
    parser.add_argument(
        "--label-map",
        metavar="FILE",
        help="yaml of `id: node`, or the word node for node ids (default: the dataset's ids)",
    )
    parser.add_argument(
        "--suffix", default="", help="ending of the stems of predictions, such as _pred"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="where hiera_metrics.json goes (default: FOLDER)"
    )
    parser.add_argument(
        "--boundary-iou", action="store_true", help="also compute Boundary IoU (docs/metrics.md)"
    )
    parser.add_argument("--report", metavar="FILE", help="write an html report, too")
    add_exif(parser)
    add_import(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.data.catalog import import_modules, require_registered
    from hiera_seg.evaluation import evaluate_predictions

    import_modules(args.modules, tool=__file__)
    require_registered([args.dataset], "DATASET")
    if not os.path.isdir(args.folder):
        raise ConfigError(f"FOLDER {args.folder} is not a folder")
    output = args.output or args.folder
    prepare_folder(output, "--output")
    if args.report:
        from hiera_seg.report.page import require_plotly

        require_plotly()
        prepare_file(args.report, "--report")
    logger = logging.getLogger("hiera_seg.evaluation")  # the evaluator logs the tables
    handler = logging.StreamHandler(sys.stdout)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        evaluate_predictions(
            args.dataset,
            args.folder,
            label_map=args.label_map,
            suffix=args.suffix,
            output_dir=output,
            exif=args.exif,
            boundary_iou=args.boundary_iou,
            progress=True,
        )
    finally:
        logger.removeHandler(handler)
    print(f"wrote {os.path.join(output, 'hiera_metrics.json')}")
    if args.report:
        from hiera_seg.report.run import report_folder

        note = f"Predictions of {args.folder}, scored without a model."
        print(f"wrote {report_folder(output, args.report, notes=[note])}")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
