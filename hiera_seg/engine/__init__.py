"""Running it: config and log, launch, trainer, checkpoints, optimizers, schedules."""

import hiera_seg.compat  # noqa: F401  (first: says how to install Detectron2 if it is missing)
from hiera_seg.engine.checkpoint import CheckpointError, HieraCheckpointer
from hiera_seg.engine.cli import exit_on_error
from hiera_seg.engine.config_files import load_config
from hiera_seg.engine.dry_run import dry_run
from hiera_seg.engine.fast_dev_run import fast_dev_run
from hiera_seg.engine.launch import launch
from hiera_seg.engine.optimizer import build_optimizer
from hiera_seg.engine.options import add_import, add_opts, add_unsafe_pickle
from hiera_seg.engine.schedule import build_lr_scheduler
from hiera_seg.engine.setup import argument_parser, setup
from hiera_seg.engine.trainer import HieraTrainer

__all__ = [
    "CheckpointError",
    "HieraCheckpointer",
    "HieraTrainer",
    "add_import",
    "add_opts",
    "add_unsafe_pickle",
    "argument_parser",
    "build_lr_scheduler",
    "build_optimizer",
    "dry_run",
    "exit_on_error",
    "fast_dev_run",
    "launch",
    "load_config",
    "setup",
]
