#!/usr/bin/env python
"""Convert a checkpoint of another project so that MODEL.WEIGHTS can name it."""

import argparse

from hiera_seg.cli import add_config, exit_on_error, tool_parser
from hiera_seg.cli.exit import prepare_file

EPILOG = """
examples:
  official weights of Mask2Former R50 for Cityscapes
    tools/convert_checkpoint.py --from mask2former --config-file configs/Cityscapes/maskformer_r50.yaml \\
        model_final_cc1b1f.pkl mask2former_r50_cityscapes.pth
  the same for training on another dataset: classes of the same name keep their weights
    tools/convert_checkpoint.py --from mask2former --classes cityscapes --config-file my_config.yaml \\
        model_final_cc1b1f.pkl start.pth
  weights of HSSN's public release (mmsegmentation's names)
    tools/convert_checkpoint.py --from mmseg --config-file configs/Base-SepASPP-R101d.yaml \\
        cityscapes.pth hssn_cityscapes.pth --opts MODEL.HIERA_SEG.HIERARCHY cityscapes
"""  # noqa: E501


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("source", metavar="IN", help="the checkpoint, .pkl or .pth")
    parser.add_argument("out", metavar="OUT", help="file to write")
    parser.add_argument(
        "--from",
        dest="project",
        required=True,
        choices=("mask2former", "mmseg"),
        help="project of the checkpoint",
    )
    parser.add_argument(
        "--classes",
        metavar="TREE|FILE.txt",
        help="the classes of the checkpoint, if they are not the leaves of the config's tree in "
        "order: a tree that has them as leaves, or a text file with one name per line",
    )
    add_config(parser, help="config of the network that will load the file")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.checkpoint.convert import convert_checkpoint, save_checkpoint
    from hiera_seg.cli import read_config
    from hiera_seg.config import resolve_hierarchy
    from hiera_seg.modeling.build import build_model

    cfg = read_config(args, "MODEL.DEVICE", "cpu", tool=__file__)
    prepare_file(args.out, "OUT")
    cfg.MODEL.WEIGHTS = args.source  # so that backbones do not download weights of their own
    model = build_model(cfg)
    state, report = convert_checkpoint(args.source, args.project, model, classes=args.classes)
    save_checkpoint(state, args.out, resolve_hierarchy(cfg))
    print("\n".join(report.lines()))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
