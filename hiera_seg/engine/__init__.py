"""Train and evaluate by a config."""

import importlib
import warnings
from typing import Any

import hiera_seg.compat  # must be imported before detectron2
from hiera_seg.engine.optimizer import build_optimizer
from hiera_seg.engine.schedule import build_lr_scheduler
from hiera_seg.engine.trainer import HieraTrainer

# The names that this package had in version 0.1, and where they are now; to be removed in 0.3
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


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module 'hiera_seg.engine' has no attribute {name!r}")
    warnings.warn(
        f"hiera_seg.engine.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2
    )
    return getattr(importlib.import_module(_MOVED[name]), name)
