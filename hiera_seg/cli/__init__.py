"""Start and end command lines: arguments, setup, launching processes, one-line errors."""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)
from hiera_seg.cli.arguments import (
    add_config,
    add_import,
    add_opts,
    add_unsafe_pickle,
    argument_parser,
    tool_parser,
)
from hiera_seg.cli.config_files import load_config
from hiera_seg.cli.exit import exit_on_error
from hiera_seg.cli.launch import launch
from hiera_seg.cli.setup import read_config, setup

__all__ = [
    "add_config",
    "add_import",
    "add_opts",
    "add_unsafe_pickle",
    "argument_parser",
    "exit_on_error",
    "launch",
    "load_config",
    "read_config",
    "setup",
    "tool_parser",
]
