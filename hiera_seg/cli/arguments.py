"""Define the command-line options that several tools share."""

import argparse
from pathlib import Path

from hiera_seg.errors import ConfigError

REMOTE_SWITCH = "--allow-remote-config"


def tool_parser(description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return a parser that prints its description and epilog as they are written."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def argument_parser(epilog: str = "", *, trials: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options of Detectron2's ``default_argument_parser`` and more.

    Args:
        epilog: examples for the help.
        trials: whether to add --fast-dev-run and --dry-run.
    """
    parser = tool_parser("Train or evaluate the model of a config file.", epilog)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="config of the model")
    add("--resume", action="store_true", help="resume from the last checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate, without training")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes per machine (1)")
    add("--num-machines", type=int, default=1, metavar="N", help="machines of the job (1)")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine (0)")
    add(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="URL of the rendezvous, such as tcp://node0:29500; auto: a free port (auto)",
    )
    add(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to change; after all options",
    )
    add_unsafe_pickle(parser)
    add_import(parser)
    add_remote_config(parser)
    if not trials:
        return parser
    add(
        "--fast-dev-run",
        action="store_true",
        help="test the config in seconds: one iteration and an evaluation on synthetic images, on "
        "CPU, from random weights; needs no dataset, downloads nothing, keeps nothing",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print the changed config keys, the class tree, the parameters and the labels of the "
        "first batch, and exit; trains and writes nothing",
    )
    add("--iterations", type=int, default=1, metavar="N", help="iterations of --fast-dev-run (1)")
    return parser


def add_config(
    parser: argparse.ArgumentParser,
    *,
    required: bool = True,
    help: str = "config of the model",
    weights: bool = True,
    opts: str = "",
) -> None:
    """Add the options that :func:`hiera_seg.cli.read_config` reads.

    Args:
        parser: its other options must have been added, because --opts takes the rest of the line.
        required: whether --config-file is required; its default is "".
        help: help of --config-file.
        weights: whether the tool reads checkpoints, which adds --unsafe-pickle.
        opts: keys that matter most for this tool, for the help.
    """
    parser.add_argument("--config-file", required=required, default="", metavar="FILE", help=help)
    if weights:
        add_unsafe_pickle(parser)
    add_import(parser)
    add_opts(parser, opts)


def check_at_least(args: argparse.Namespace, **minimums: float) -> None:
    """Raise ConfigError if a numeric option is below its minimum; None is not checked."""
    for name, minimum in minimums.items():
        value = getattr(args, name)
        if value is not None and not value >= minimum:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is {value}; it must be {minimum} or more")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add ``--run FOLDER``, for :func:`hiera_seg.cli.start.read_run_config`."""
    parser.add_argument(
        "--run", type=Path, metavar="FOLDER", help="OUTPUT_DIR of the run (default: the config's)"
    )


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add ``--import MODULE``, for :func:`hiera_seg.data.catalog.import_modules`, as "modules"."""
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module to import first, such as one that registers datasets; may be repeated",
    )


def add_exif(parser: argparse.ArgumentParser) -> None:
    """Add ``--exif``, which is INPUT.EXIF for tools that read files without a config."""
    parser.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        default="apply",
        help="rotate images and labels by their EXIF orientation, or ignore it (apply)",
    )


def add_opts(parser: argparse.ArgumentParser, which: str = "") -> None:
    """Add ``--opts KEY VALUE ...``, which takes the rest of the line, and --allow-remote-config.

    Args:
        parser: of a tool that reads a config.
        which: keys that matter most for this tool, for the help.
    """
    add_remote_config(parser)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help=f"config keys to change{which and ', ' + which}; the last option",
    )


def add_remote_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-remote-config``, for ``allow_remote`` of ``load_config``."""
    parser.add_argument(
        REMOTE_SWITCH,
        dest="allow_remote",
        action="store_true",
        help="download a _BASE_ of a config file that is an address",
    )


def add_unsafe_pickle(parser: argparse.ArgumentParser) -> None:
    """Add ``--unsafe-pickle``, for :func:`hiera_seg.checkpoint.allow_unsafe_pickle`."""
    parser.add_argument(
        "--unsafe-pickle",
        action="store_true",
        help="unpickle checkpoints that may run code; only for files that you trust",
    )
