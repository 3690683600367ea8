#!/usr/bin/env python
"""Write a trained model as one small file that predicts without a config: HieraPredictor(FILE)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_seg.cli import add_config, exit_on_error, tool_parser
from hiera_seg.cli.arguments import add_run
from hiera_seg.cli.exit import prepare_file
from hiera_seg.errors import ConfigError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

EPILOG = """
examples:
  of the output folder of tools/train_net.py
    tools/publish_weights.py --run output/camvid/hssn --output model.safetensors
  of other weights
    tools/publish_weights.py --config-file CONFIG --output model.safetensors \\
        --opts MODEL.WEIGHTS model_final.pth

The file holds the weights in half precision, the class tree, the config, the metrics of the run's
last evaluation, a licence note and a hash. The licences of many datasets forbid sharing weights
that were trained on them: check them first. docs/export.md explains the file.
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    add_run(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="file to write")
    parser.add_argument(
        "--dataset", metavar="NAME",
        help="of the metrics (default: the first of DATASETS.TEST; weights other than the last "
        "checkpoint of the run get none)",
    )  # fmt: skip
    parser.add_argument(
        "--license", default="", metavar="TEXT",
        help="licence note (default: that the licences of the training sets apply)",
    )  # fmt: skip
    add_config(parser, required=False, help="default: config.yaml of the run")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli.start import read_run_config
    from hiera_seg.inference import build_for_eval, load_published, publish

    cfg = read_run_config(args, tool=__file__)
    if args.output.suffix != ".safetensors":
        raise ConfigError(f"--output {args.output}: name a file with the suffix .safetensors")
    prepare_file(args.output, "--output")
    metrics = metrics_of(cfg, args.dataset)
    model, weights = build_for_eval(cfg, args.opts)
    print(f"weights: {weights}")
    named = Path(cfg.OUTPUT_DIR, "last_checkpoint")
    last = named.with_name(named.read_text().strip()) if named.is_file() else weights
    if metrics is None:
        print(f"no evaluation in {cfg.OUTPUT_DIR}: the file will have no metrics")
    elif args.dataset is None and os.path.realpath(weights) != os.path.realpath(last):
        metrics = None
        print(
            f"the evaluation in {cfg.OUTPUT_DIR} may be of {last}: the file will have no metrics; "
            "pass --dataset NAME if it is of these weights"
        )
    publish(args.output, cfg, model, metrics=metrics, license=args.license)
    about = load_published(args.output).about  # raises if it cannot be read back
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, SHA-256 {about['sha256']}")
    print(f"licence note: {about['license']}")


def metrics_of(cfg: CfgNode, dataset: str | None) -> dict[str, Any] | None:
    """Return the metrics of the last evaluation, without those of single classes."""
    from hiera_seg.report.run import last_evaluation, read_summary

    name = dataset or (cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "")
    folder = last_evaluation(cfg, name)
    if dataset is None and not (folder / "hiera_metrics.json").exists():
        return None
    summary = read_summary(folder, name)
    metrics = {key: value for key, value in summary["metrics"].items() if "-" not in key}
    return {"dataset": summary.get("dataset"), "images": summary.get("images"), **metrics}


if __name__ == "__main__":
    exit_on_error(main, parse_args())
