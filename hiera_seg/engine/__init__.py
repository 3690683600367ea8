"""Train and evaluate by a config."""

import importlib
from typing import Any

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)
from hiera_seg.engine.optimizer import build_optimizer
from hiera_seg.engine.schedule import build_lr_scheduler
from hiera_seg.engine.trainer import HieraTrainer

__all__ = ["HieraTrainer", "build_lr_scheduler", "build_optimizer"]


def __getattr__(name: str) -> Any:
    return importlib.import_module("hiera_seg.engine.deprecated").forward(name)
