"""Train by a LazyConfig: a Python file whose parts are built by ``instantiate``."""

import argparse
import copy
import inspect
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer, allow_unsafe_pickle
from hiera_seg.cli.config_files import refuse_switches
from hiera_seg.cli.start import start_run
from hiera_seg.cli.threads import set_threads
from hiera_seg.data.catalog import import_modules
from hiera_seg.engine.distributed import distribute, share_buffers
from hiera_seg.engine.elastic import should_resume
from hiera_seg.engine.precision import automatic_precision
from hiera_seg.engine.step import HieraTrainStep, plain_model
from hiera_seg.engine.writers import build_writers
from hiera_seg.errors import ConfigError

logger = logging.getLogger(__name__)

PARTS = ("model", "optimizer", "lr_multiplier", "dataloader", "train")


def load_lazy_config(config_file: str, opts: list[str]) -> DictConfig:
    """Run a config file and apply ``key=value`` overrides.

    The file is a program: do not run files that you have not read. ``train.device`` becomes "cpu"
    on machines without a GPU.

    Args:
        config_file: a .py file.
        opts: overrides.

    Raises:
        ConfigError: the file does not exist, is not valid Python, or lacks a part; or an override
            is invalid.
    """
    if not config_file.endswith(".py"):
        # LazyConfig.load would read yaml with tags that run code
        raise ConfigError(f"--config-file is {config_file!r}; specify a LazyConfig, a .py file")
    if not os.path.isfile(config_file):
        raise ConfigError(f"config file {config_file} does not exist")
    try:
        cfg = LazyConfig.load(config_file)
    except (SyntaxError, ImportError, NameError) as error:
        raise ConfigError(f"config file {config_file}: {error}") from error
    missing = [key for key in PARTS if key not in cfg]
    if missing:
        raise ConfigError(
            f"config file {config_file} lacks {', '.join(missing)}; see the example in "
            "projects/LazyHSSN/configs"
        )
    try:
        cfg = LazyConfig.apply_overrides(cfg, opts)
    except Exception as error:  # of hydra or OmegaConf
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"options {' '.join(opts)}: {reason}") from error
    if not isinstance(max_iter := cfg.train.get("max_iter"), int) or max_iter < 1:
        raise ConfigError(f"train.max_iter is {max_iter!r}; it must be an integer, 1 or more")
    if str(cfg.train.device).startswith("cuda") and not torch.cuda.is_available():
        cfg.train.device = "cpu"
    return cfg


def setup_lazily(args: argparse.Namespace) -> DictConfig:
    """Read the config of a run and start its log, as :func:`hiera_seg.cli.setup` does.

    Args:
        args: of :func:`~hiera_seg.cli.argument_parser`.

    Raises:
        ConfigError: see :func:`load_lazy_config`; or ``train.output_dir`` cannot be written.
    """
    import_modules(args.modules)
    allow_unsafe_pickle(args.unsafe_pickle)
    refuse_switches(args.opts)
    cfg = load_lazy_config(args.config_file, args.opts)
    seed = cfg.train.get("seed", -1)
    start_run(
        args,
        cfg.train.output_dir,
        str(cfg),
        lambda path: LazyConfig.save(cfg, path),
        "train.output_dir",
    )
    seed_all_rng(None if seed < 0 else seed + comm.get_rank())
    set_threads(0)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.train.get("cudnn_benchmark", False)
    return cfg


def build_lazy_model(cfg: DictConfig) -> nn.Module:
    """Build the model of a config on its device.

    Raises:
        ConfigError: a reference to a missing value.
    """
    try:
        return instantiate(cfg.model).to(cfg.train.device)
    except OmegaConfBaseException as error:
        raise ConfigError(f"model: {str(error).splitlines()[0]}") from error


def evaluate_lazily(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Evaluate a model on ``dataloader.test`` with ``dataloader.evaluator``."""
    share_buffers(plain_model(model))
    loader, evaluator = _build(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def train_lazily(cfg: DictConfig, *, resume: bool = False) -> dict[str, Any] | None:
    """Train the model of a config to ``train.max_iter``.

    Args:
        cfg: of :func:`load_lazy_config`: ``model``, ``optimizer``, ``lr_multiplier``,
            ``dataloader.{train, test, evaluator}`` and ``train``, as in Detectron2's
            ``tools/lazyconfig_train_net.py``.
        resume: resume from the last checkpoint of ``train.output_dir``, at its position in the
            data if the loader has a ``start_position``.

    Returns:
        The results of the last evaluation; None if there was none.
    """
    options = cfg.train
    model = build_lazy_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    model = distribute(model)
    device_type = torch.device(options.device).type
    stream = _Stream(cfg.dataloader.train)
    trainer = HieraTrainStep(
        model,
        stream,
        optimizer,
        device_type=device_type,
        precision=automatic_precision(device_type) if options.amp.enabled else None,
        seed=max(options.get("seed", 0), 0),
        dump_folder=options.output_dir,
    )
    checkpointer = HieraCheckpointer(model, options.output_dir, trainer=trainer)
    results: list[dict] = []

    def evaluate() -> dict | None:
        if "evaluator" not in cfg.dataloader:
            return None
        results.append(evaluate_lazily(cfg, model))
        return results[-1]

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **options.checkpointer)
            if comm.is_main_process()
            else None,
            _EvalHook(options.eval_period, evaluate),
            hooks.PeriodicWriter(
                build_writers(options.output_dir, options.max_iter), period=options.log_period
            )
            if comm.is_main_process()
            else None,
        ]
    )
    resume = should_resume(checkpointer, resume)
    checkpointer.resume_or_load(options.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    stream.start_iter = start
    trainer.train(start, options.max_iter)
    return results[-1] if results else None


class _EvalHook(hooks.EvalHook):
    def after_train(self) -> None:
        # EvalHook would also evaluate if the last iteration failed
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class _Stream:
    """The training loader, built when it is iterated: its start is known after loading."""

    def __init__(self, node: DictConfig):
        self.node = node
        self.start_iter = 0

    def __iter__(self) -> Iterator[list[dict]]:
        node = copy.deepcopy(self.node)
        target = node.get("_target_")
        target = locate(target) if isinstance(target, str) else target
        if self.start_iter and "start_position" in inspect.signature(target).parameters:
            OmegaConf.update(
                node, "start_position", self.start_iter * node.total_batch_size, force_add=True
            )
        yield from _build(node)


def _build(loader: DictConfig) -> Iterable[list[dict]]:
    try:
        return instantiate(loader)
    except KeyError as error:
        if "registered" not in str(error):
            raise
        reason = str(error.args[0]).split("!")[0]  # Detectron2 appends a list of all datasets
        raise ConfigError(f"dataloader: {reason}; --import the module that registers it") from error
