#!/usr/bin/env python
"""Count the parameters, multiply-adds and activations of a config, and those of its hierarchy."""

from __future__ import annotations

import argparse
import json
import warnings
from typing import TYPE_CHECKING

from hiera_seg.cli import add_config, exit_on_error, tool_parser
from hiera_seg.cli.exit import prepare_file
from hiera_seg.disk import replace_text
from hiera_seg.errors import ConfigError

if TYPE_CHECKING:
    from hiera_seg.diagnostics.cost import NetworkCost

EPILOG = """
examples:
  a table of modules, and a comparison with the same network with a flat head
    tools/analyze_model.py --config-file configs/CamVid/hssn_deeplab_v3_plus_r18.yaml
  another size, and every convolution
    tools/analyze_model.py --config-file CONFIG --size 512 1024 --depth 9

The numbers are of one image. Multiply-adds are what fvcore calls FLOPs. Neither weights nor a
dataset are needed.
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the image (default: INPUT.CROP.SIZE if crops are enabled, else 512 512)",
    )  # fmt: skip
    parser.add_argument("--depth", type=int, default=2, help="levels of modules in the table (2)")
    parser.add_argument("--json", default="", metavar="FILE", help="write all numbers to a file")
    add_config(parser, weights=False)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli import read_config
    from hiera_seg.config import check_config
    from hiera_seg.diagnostics.cost import compare_with_flat, comparison_table, module_table

    cfg = read_config(args, tool=__file__)
    if (args.size and min(args.size) < 1) or args.depth < 0:
        raise ConfigError(
            f"--size {args.size} must be positive and --depth {args.depth} at least 0"
        )
    size, crop = args.size or (512, 512), cfg.INPUT.CROP
    if args.size is None and crop.ENABLED and crop.TYPE == "absolute":
        check_config(cfg, "INPUT.CROP.")
        size = crop.SIZE
    if args.json:
        prepare_file(args.json, "--json")
    warnings.filterwarnings("ignore", module="torch")  # by torch.jit.trace
    ours, flat = compare_with_flat(cfg, tuple(int(n) for n in size))
    tree = ours.hierarchy
    print(
        f"{args.config_file}: tree {tree.name!r}, {tree.num_nodes} nodes, {tree.num_leaves} "
        f"leaves, an image of {size[0]} x {size[1]}\n\n{module_table(ours, args.depth)}\n\n"
        f"the same network with a flat head\n\n{comparison_table(ours, flat)}"
    )
    if args.json:
        costs = {"hierarchy": as_dict(ours), "flat": as_dict(flat)}
        replace_text(args.json, json.dumps(costs, indent=1))


def as_dict(cost: NetworkCost) -> dict:
    return {
        "channels": cost.hierarchy.num_nodes,
        "size": cost.size,
        "test_parameters": cost.test_parameters,
        "training_flops": cost.training_flops,
        "modules": [vars(module) for module in cost.modules],
    }


if __name__ == "__main__":
    exit_on_error(main, parse_args())
