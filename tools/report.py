#!/usr/bin/env python
"""Write the html report of a run's last evaluation: one file that needs no network."""

import argparse
import sys
from pathlib import Path

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)

# isort: split
from detectron2.config import CfgNode

from hiera_seg.checkpoint import allow_unsafe_pickle
from hiera_seg.cli import add_import, add_opts, add_unsafe_pickle, exit_on_error, load_config
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.errors import CheckpointError, ConfigError, DatasetError, HierarchyError
from hiera_seg.evaluation import evaluation_folder
from hiera_seg.report.run import read_summary, report_run

try:
    from hiera_seg.inference.predictions import load_predictor
    from hiera_seg.report.page import require_plotly
except ImportError as missing:  # OpenCV
    sys.exit(f"error: {missing}")

EPILOG = """
examples:
  of the folder that tools/train_net.py wrote to
    tools/report.py --run output/camvid/hssn --output report.html
  with other weights, and ten images of the second test set
    tools/report.py --run output/street/hssn --dataset hiera_street_cityscapes_val --images 10 \\
        --output report.html --opts MODEL.WEIGHTS model.pth
  numbers alone, without a model
    tools/report.py --run output/camvid/hssn --images 0 --output report.html

Numbers come from the files of the last evaluation (hiera_metrics.json and others), curves from
metrics.json. Images are predicted now, with MODEL.WEIGHTS of --opts, else the run's last
checkpoint, else MODEL.WEIGHTS of the config. docs/report.md says what there is to see.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, metavar="FOLDER", help="OUTPUT_DIR of the run (default: the config's)"
    )
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="default: config.yaml of the run"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="report.html")
    parser.add_argument(
        "--dataset", metavar="NAME", help="which test set (default: the first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="images to show (default: TEST.REPORT_IMAGES)"
    )
    add_unsafe_pickle(parser)
    add_import(parser)
    add_opts(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    require_plotly()
    import_modules(args.modules, tool=__file__)
    allow_unsafe_pickle(args.unsafe_pickle)
    cfg = config_of(args)
    if args.images is not None and args.images < 0:
        raise ConfigError(f"--images is {args.images}; it must be 0 or more")
    if args.dataset:
        require_registered([args.dataset], "--dataset")
    if args.output.is_dir():
        raise ConfigError(f"--output {args.output} is a folder; name a file in it")
    dataset = args.dataset or (cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "")
    read_summary(Path(evaluation_folder(cfg, dataset)), dataset)  # before a model is built in vain
    num_images = cfg.TEST.REPORT_IMAGES if args.images is None else args.images
    model, notes = None, []
    if num_images:
        try:
            predictor, weights = load_predictor(cfg, args.opts)
            model = predictor.model
            print(f"weights: {weights}")
        except (ConfigError, CheckpointError, DatasetError, HierarchyError) as error:
            # The numbers are worth a report of their own.
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


def config_of(args: argparse.Namespace) -> CfgNode:
    """The run's config, with OUTPUT_DIR where the run is now."""
    if args.run is None and not args.config_file:
        raise ConfigError("name the run with --run FOLDER, or its config with --config-file")
    file = args.config_file
    if args.run is not None:
        if not args.run.is_dir():
            raise ConfigError(f"--run {args.run} is no folder")
        stored = args.run / "config.yaml"
        if not file and stored.is_file():
            file = str(stored)
    cfg = load_config(file, args.opts, allow_remote=args.allow_remote)
    if args.run is not None:
        cfg.OUTPUT_DIR = str(args.run)
    return cfg


if __name__ == "__main__":
    exit_on_error(main, parse_args())
