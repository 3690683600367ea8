"""Options that several command lines have, each said once."""

import argparse

from hiera_seg.checkpoint.unpickle import SWITCH
from hiera_seg.data.images import EXIF_CHOICES

REMOTE_SWITCH = "--allow-remote-config"


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
    """Add ``--exif``, INPUT.EXIF for command lines that read files without a config."""
    parser.add_argument(
        "--exif",
        choices=EXIF_CHOICES,
        default="apply",
        help="turn files by their EXIF orientation, or read them as stored, as INPUT.EXIF (apply)",
    )


def add_opts(parser: argparse.ArgumentParser, which: str = "") -> None:
    """Add ``--opts KEY VALUE ...``, which takes the rest of the line, and --allow-remote-config.

    Args:
        parser: of a command line that reads a config.
        which: what of the config matters most, for the help.
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
        help="download what _BASE_ of a config file names by an address",
    )


def add_unsafe_pickle(parser: argparse.ArgumentParser) -> None:
    """Add ``--unsafe-pickle``, for :func:`hiera_seg.checkpoint.allow_unsafe_pickle`."""
    parser.add_argument(
        SWITCH,
        action="store_true",
        help="unpickle whatever a checkpoint names, which can run any code that its maker wrote",
    )
