#!/usr/bin/env python
"""Run --fast-dev-run on every config of the repository, or some, in one process."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hiera_seg.cli import exit_on_error, tool_parser
from hiera_seg.cli.exit import prepare_file
from hiera_seg.disk import replace_text
from hiera_seg.errors import ConfigError

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

{count} of {total} configs passed, with {iterations} iterations and one evaluation each:
{seconds:.0f} s of CPU time ({machine}). This page is written by

    export OMP_NUM_THREADS=1
    python tools/fast_dev_run.py --iterations {iterations} --table docs/fast_dev_run.md

| config | parameters, millions | loss of the last iteration | CPU seconds |
|---|---|---|---|
{table}
"""
ROW = re.compile(r"^\| `(.+?)` \| ([\d.]+) \| ([\d.]+|nan|inf) \| ([\d.]+) \|$", re.MULTILINE)
REPOSITORY = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="default: all")
    parser.add_argument(
        "--iterations", type=int, default=1, metavar="N", help="iterations of each (1)"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a page with the results")
    parser.add_argument(
        "--missing", action="store_true", help="keep the rows of --table, run the configs it lacks"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli import load_config
    from hiera_seg.data.catalog import import_modules
    from hiera_seg.diagnostics import fast_dev_run
    from hiera_seg.model_zoo import config_names, get_config_file

    import_modules([], tool=__file__)
    zoo = [get_config_file(name) for name in config_names() if "Base" not in name]
    found = {name_of(config): config for config in map(Path, args.configs or zoo)}
    rows: dict[str, list[str]] = {}
    if args.table:
        kept = args.table.read_text() if args.missing and args.table.is_file() else ""
        if f" with {args.iterations} iterations " in kept:
            rows = {name: row for name, *row in ROW.findall(kept) if name in found}
        prepare_file(args.table, "--table")
    elif args.missing:
        raise ConfigError("--missing: there is no page to keep rows of; pass --table FILE")
    for name in [name for name in found if name not in rows]:
        try:
            run = fast_dev_run(load_config(str(found[name]), []), iterations=args.iterations)
        except Exception as error:  # continue with the others
            print(f"error: {name}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        else:
            rows[name] = table_row(run)
            print(f"{name}: {run}", flush=True)
        if args.table:  # after each run, so that an interruption loses none
            ordered = {name: rows[name] for name in found if name in rows}
            replace_text(args.table, page(ordered, len(found), args.iterations))
    print(f"{len(rows)} of {len(found)} configs work")
    if len(rows) < len(found):
        sys.exit(1)


def name_of(config: Path) -> str:
    """Return the path of a config below the repository, or as it is given if it lies elsewhere."""
    inside = config.resolve().is_relative_to(REPOSITORY)
    return str(config.resolve().relative_to(REPOSITORY) if inside else config)


def table_row(run: FastDevRun) -> list[str]:
    return [f"{run.parameters / 1e6:.1f}", f"{run.total_loss:.3f}", f"{run.cpu_seconds:.1f}"]


def page(rows: dict[str, list[str]], total: int, iterations: int) -> str:
    import torch

    from hiera_seg.diagnostics.fast_dev_run import CROP

    torch_version = torch.__version__.split("+")[0]
    return PAGE.format(
        crop=CROP,
        count=len(rows),
        total=total,
        iterations=iterations,
        seconds=sum(float(row[-1]) for row in rows.values()),
        machine=f"{platform.machine()}, torch {torch_version}, threads: {torch.get_num_threads()}",
        table="\n".join(f"| `{name}` | {' | '.join(row)} |" for name, row in rows.items()),
    )


if __name__ == "__main__":
    exit_on_error(main, parse_args())
