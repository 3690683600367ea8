"""Forward the names that ``hiera_seg.engine`` had in version 0.1; to be removed in 0.3."""

import importlib
import warnings
from typing import Any

_MOVED = {
    "CheckpointError": "hiera_seg.errors",
    "HieraCheckpointer": "hiera_seg.checkpoint",
    "add_import": "hiera_seg.cli",
    "add_opts": "hiera_seg.cli",
    "add_unsafe_pickle": "hiera_seg.cli",
    "argument_parser": "hiera_seg.cli",
    "dry_run": "hiera_seg.diagnostics",
    "exit_on_error": "hiera_seg.cli",
    "fast_dev_run": "hiera_seg.diagnostics",
    "launch": "hiera_seg.cli",
    "load_config": "hiera_seg.cli",
    "setup": "hiera_seg.cli",
}


def forward(name: str) -> Any:
    """Return a name from the module that has it now, with a DeprecationWarning.

    Raises:
        AttributeError: the name was never in ``hiera_seg.engine``.
    """
    if name not in _MOVED:
        raise AttributeError(f"module 'hiera_seg.engine' has no attribute {name!r}")
    warnings.warn(
        f"hiera_seg.engine.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=3
    )
    return getattr(importlib.import_module(_MOVED[name]), name)
