"""Start and end command lines: arguments, setup, launching processes, one-line errors.

Importing this package imports neither torch nor Detectron2, which takes seconds; ``--help`` and
mistakes in a command line are answered immediately. The tools import them after reading the
arguments.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hiera_seg.cli import threads
from hiera_seg.cli.arguments import (
    add_config,
    add_import,
    add_opts,
    add_unsafe_pickle,
    argument_parser,
    tool_parser,
)
from hiera_seg.cli.exit import exit_on_error

if TYPE_CHECKING:
    from hiera_seg.cli.config_files import load_config
    from hiera_seg.cli.processes import launch
    from hiera_seg.cli.start import read_config, setup

_LATER = {
    "launch": "processes",
    "load_config": "config_files",
    "read_config": "start",
    "setup": "start",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        threads.let_threads_sleep()
        return getattr(importlib.import_module(f"hiera_seg.cli.{_LATER[name]}"), name)
    raise AttributeError(f"module 'hiera_seg.cli' has no attribute {name!r}")
