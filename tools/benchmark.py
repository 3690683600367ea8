#!/usr/bin/env python
"""Measure the cost of the hierarchy: losses, training step, evaluator, decoding.

Each row alternates this package and a flat counterpart and compares medians; memory is the peak of
one run above the memory in use before it. docs/performance.md explains the rows and their targets.
"""

import argparse
import json
import platform

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_file
from hiera_seg.disk import replace_text
from hiera_seg.errors import ConfigError

GROUPS = ("losses", "train", "eval", "inference")
MIN_ROUNDS = 7


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains TEXT")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--rounds", type=int, default=MIN_ROUNDS, metavar="N", help=f"timed runs ({MIN_ROUNDS})"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="PyTorch's default")
    parser.add_argument(
        "--sweep", action="store_true", help="how tree_min scales with nodes, depth and pixels"
    )
    parser.add_argument("--plot", default="", metavar="FILE", help="plot the sweep")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument(
        "--json", default="benchmark.json", metavar="FILE", help="output file (benchmark.json)"
    )
    args = parser.parse_args()
    if unknown := sorted(set(args.groups) - set(GROUPS)):
        parser.error(f"unknown group {unknown[0]!r}; choose from {', '.join(GROUPS)}")
    if args.plot and not args.sweep:
        parser.error("--plot draws a sweep: add --sweep")
    if args.sweep and (args.groups or args.only):
        parser.error("--sweep measures tree_min alone: remove GROUP and --only")
    if args.rounds < 1 or args.threads < 0:
        parser.error("--rounds must be at least 1 and --threads at least 0")
    return args


def main(args: argparse.Namespace) -> None:
    import torch

    import benchmark
    from benchmark.sweep import plot, run_sweeps

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch sees no GPU here")
    if args.threads:
        torch.set_num_threads(args.threads)
    prepare_file(args.json, "--json")
    if args.plot:
        prepare_file(args.plot, "--plot")
        if not args.plot.lower().endswith((".png", ".pdf", ".svg")):
            raise ConfigError(f"--plot {args.plot}: name a file that ends in .png, .pdf or .svg")
    device = torch.device(args.device)
    if args.sweep:
        points = run_sweeps(device, args.rounds, not args.no_memory)
        write(args, {"points": benchmark.as_rows(points)})
        if args.plot:
            plot(points, args.plot)
        return
    chosen = [
        (comparison, f"{group}:{index}")
        for group in args.groups or GROUPS
        for index, comparison in enumerate(benchmark.GROUPS[group])
        if args.only in comparison.name
    ]
    if not chosen:
        raise ConfigError(f"--only {args.only!r}: no row has a name that contains it")
    results = []
    for comparison, key in chosen:
        print(f"{key}: {comparison.name} ...", flush=True)
        results.append(benchmark.measure(comparison, key, device, args.rounds, not args.no_memory))
    print(benchmark.table(results))
    write(args, {"results": benchmark.as_rows(results)})


def write(args: argparse.Namespace, content: dict) -> None:
    import torch

    facts = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": args.rounds,
    }
    replace_text(args.json, json.dumps(facts | content, indent=1))
    print(f"written: {args.json}")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
