#!/usr/bin/env python
"""Run --fast-dev-run on every config of the repository, or some, in one process."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hiera_seg.cli import exit_on_error, tool_parser
from hiera_seg.cli.exit import prepare_file
from hiera_seg.disk import replace_text

if TYPE_CHECKING:
    from hiera_seg.diagnostics.fast_dev_run import FastDevRun

PAGE = """# Fast development run of every config

`tools/train_net.py --config-file ... --fast-dev-run` checks in seconds whether a config works. It
uses the network, losses, optimizer, augmentations and evaluation of the config, and trains from
random weights on {crop}x{crop} crops of four images of random patches, labelled with leaves, inner
nodes and void of the config's tree, on CPU. It reads no dataset, downloads nothing and keeps
nothing. A test runs it for every config of the repository, with one iteration each.

It does not check whether a dataset exists, whether weights can be loaded, or whether a network
learns.

{count} of {total} configs passed, with {iterations} iterations and one evaluation each, in one
process: {seconds:.0f} s of CPU time ({machine}). This page is written by

    export OMP_NUM_THREADS=1
    python tools/fast_dev_run.py --iterations {iterations} --table docs/fast_dev_run.md

| config | parameters, millions | loss of the last iteration | CPU seconds |
|---|---|---|---|
{table}
"""
REPOSITORY = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="default: all")
    parser.add_argument(
        "--iterations", type=int, default=1, metavar="N", help="iterations of each (1)"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a page with the results")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli import load_config
    from hiera_seg.data.catalog import import_modules
    from hiera_seg.diagnostics.fast_dev_run import fast_dev_run, repository_configs

    import_modules([], tool=__file__)
    found = [Path(config) for config in args.configs] or repository_configs(REPOSITORY)
    if args.table:
        prepare_file(args.table, "--table")
    runs: dict[str, FastDevRun] = {}
    for config in found:
        inside = config.resolve().is_relative_to(REPOSITORY)
        name = str(config.resolve().relative_to(REPOSITORY) if inside else config)
        try:
            runs[name] = fast_dev_run(load_config(str(config), []), iterations=args.iterations)
        except Exception as error:  # continue with the others
            print(f"error: {name}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        else:
            print(f"{name}: {runs[name]}", flush=True)
        if args.table:  # after each run, so that an interruption loses none
            replace_text(args.table, page(runs, len(found), args.iterations))
    print(f"{len(runs)} of {len(found)} configs work")
    if len(runs) < len(found):
        sys.exit(1)


def page(runs: dict[str, FastDevRun], total: int, iterations: int) -> str:
    import torch

    from hiera_seg.diagnostics.fast_dev_run import CROP

    torch_version = torch.__version__.split("+")[0]
    rows = [
        f"| `{name}` | {run.parameters / 1e6:.1f} | {run.total_loss:.3f} | {run.cpu_seconds:.1f} |"
        for name, run in runs.items()
    ]
    table = "\n".join(rows)
    return PAGE.format(
        crop=CROP,
        count=len(runs),
        total=total,
        iterations=iterations,
        seconds=sum(run.cpu_seconds for run in runs.values()),
        machine=f"{platform.machine()}, torch {torch_version}, threads: {torch.get_num_threads()}",
        table=table,
    )


if __name__ == "__main__":
    exit_on_error(main, parse_args())
