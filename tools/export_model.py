#!/usr/bin/env python
"""Export a trained model to a file that runs without hiera_seg, and check its outputs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hiera_seg.cli import add_config, exit_on_error, tool_parser

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn

EPILOG = """
examples:
  for ONNX Runtime
    tools/export_model.py --config-file CONFIG --format onnx --output model.onnx \\
        --opts MODEL.WEIGHTS output/model_final.pth
  only label maps, without scores and direct labels
    tools/export_model.py ... --opts MODEL.WEIGHTS output/model_final.pth \\
        MODEL.HIERA_SEG.TEST.OUTPUT labels MODEL.HIERA_SEG.TEST.DIRECT False

Weights: MODEL.WEIGHTS of --opts, else the last checkpoint in the config's OUTPUT_DIR, else
MODEL.WEIGHTS of the config file. The file takes images (batch, 3, height, width) uint8 of any size.
docs/export.md runs each format.
"""
FORMATS = ("torchscript", "export", "onnx")


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write")
    add_config(parser, opts="above all MODEL.WEIGHTS")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli import read_config
    from hiera_seg.inference import build_for_eval
    from hiera_seg.inference.deployed import DeployedSegmentor
    from hiera_seg.inference.export import ExportError, export_segmentor

    cfg = read_config(args, "MODEL.DEVICE", "cpu", tool=__file__)
    if cfg.TEST.AUG.ENABLED:
        print("TEST.AUG is enabled; the exported network does not use it", file=sys.stderr)
    model, weights = build_for_eval(cfg, args.opts, build=build_exportable)
    print(f"weights: {weights}")
    segmentor = DeployedSegmentor(model.eval())
    try:
        worst = export_segmentor(segmentor, args.output, args.format, cfg.INPUT.FORMAT)
    except ExportError as error:
        sys.exit(f"error: {error}")
    scores = f", scores to {worst:.1g}" if "sem_seg" in segmentor.outputs else ""
    print(
        f"wrote {args.output} ({args.format}): image -> {', '.join(segmentor.outputs)}; "
        f"equal to the model at three sizes{scores}"
    )


def build_exportable(cfg: CfgNode) -> nn.Module:
    from hiera_seg.engine import HieraTrainer
    from hiera_seg.inference.deployed import DeployedSegmentor

    model = HieraTrainer.build_model(cfg)
    DeployedSegmentor(model)  # raises for unsupported heads before weights are read
    return model


if __name__ == "__main__":
    exit_on_error(main, parse_args())
