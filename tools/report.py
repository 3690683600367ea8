#!/usr/bin/env python
"""Write the html report of a run's last evaluation as one file that needs no network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hiera_seg.cli import add_config, exit_on_error, tool_parser
from hiera_seg.cli.arguments import add_run, check_at_least
from hiera_seg.errors import CheckpointError, ConfigError, DatasetError, HierarchyError

EPILOG = """
examples:
  of the output folder of tools/train_net.py
    tools/report.py --run output/camvid/hssn --output report.html
  with other weights, and ten images of the second test set
    tools/report.py --run output/street/hssn --dataset hiera_street_cityscapes_val --images 10 \\
        --output report.html --opts MODEL.WEIGHTS model.pth
  without images, which needs no model
    tools/report.py --run output/camvid/hssn --images 0 --output report.html

Numbers are read from the files of the last evaluation (hiera_metrics.json and others), curves from
metrics.json. Images are predicted with MODEL.WEIGHTS of --opts, else the last checkpoint of the
run, else MODEL.WEIGHTS of the config. docs/report.md explains the report.
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    add_run(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="report.html")
    parser.add_argument(
        "--dataset", metavar="NAME", help="a test set (default: the first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="images to show (default: TEST.REPORT_IMAGES)"
    )
    add_config(parser, required=False, help="default: config.yaml of the run")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli.start import read_run_config
    from hiera_seg.data.catalog import require_registered
    from hiera_seg.inference import HieraPredictor, build_for_eval
    from hiera_seg.report.page import require_plotly
    from hiera_seg.report.run import last_evaluation, read_summary, report_run

    require_plotly()
    cfg = read_run_config(args, tool=__file__)
    check_at_least(args, images=0)
    if args.dataset:
        require_registered([args.dataset], "--dataset")
    if args.output.is_dir():
        raise ConfigError(f"--output {args.output} is a folder; name a file in it")
    dataset = args.dataset or (cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "")
    folder = last_evaluation(cfg, dataset)
    read_summary(folder, dataset)  # raises before the model is built
    print(f"evaluation: {folder}")
    num_images = cfg.TEST.REPORT_IMAGES if args.images is None else args.images
    model, notes = None, []
    if num_images:
        try:
            model, weights = build_for_eval(cfg, args.opts)
            model = HieraPredictor(cfg, model).model
            print(f"weights: {weights}")
        except (ConfigError, CheckpointError, DatasetError, HierarchyError) as error:
            model = None
            print(f"warning: no images: {error}", file=sys.stderr)
            notes.append(f"No images: {error}")
    path = report_run(
        cfg,
        dataset_name=dataset,
        output=args.output,
        model=model,
        num_images=num_images,
        notes=notes,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
