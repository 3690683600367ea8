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
    from hiera_seg.diagnostics.cost import compare_with_flat

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


def module_table(cost: NetworkCost, depth: int) -> str:
    """Format one row per module down to a depth, except those without any cost."""
    rows = []
    for module in cost.modules:
        level = module.name.count(".") + 1 if module.name else 0
        if level > depth or not (module.parameters or module.flops):
            continue
        name = "  " * level + (module.name.rpartition(".")[2] or "whole network")
        is_run = module.flops or module.activations
        test = [short(n) if is_run else "-" for n in (module.flops, module.activations)]
        rows.append([name, short(module.parameters), *test])
    return table(rows, ["module", "parameters", "multiply-adds", "activations"])


def comparison_table(ours: NetworkCost, flat: NetworkCost) -> str:
    """Format the costs of a network and of the same network with a flat head side by side."""
    numbers = [
        ("channels of the output", ours.hierarchy.num_nodes, flat.hierarchy.num_nodes),
        ("parameters in training", ours.whole.parameters, flat.whole.parameters),
        ("parameters at test time", ours.test_parameters, flat.test_parameters),
        ("multiply-adds in training", ours.training_flops, flat.training_flops),
        ("multiply-adds at test time", ours.whole.flops, flat.whole.flops),
        ("activations at test time", ours.whole.activations, flat.whole.activations),
    ]
    rows = [
        [what, short(a), short(b), short(a - b), f"{100 * (a / b - 1):+.2f} %"]
        for what, a, b in numbers
    ]
    return table(rows, ["", "hierarchy", "flat", "more", ""])


def table(rows: list[list[str]], headers: list[str]) -> str:
    from tabulate import tabulate

    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, disable_numparse=True, colalign=align, preserve_whitespace=True)


def short(number: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number:.0f}"


if __name__ == "__main__":
    exit_on_error(main, parse_args())
