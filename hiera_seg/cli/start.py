"""Set up a run: read the config, claim the output folder, start the log, seed the generators.

:func:`setup` is what runs first in tools/train_net.py, in the order in which it is written.
"""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from hiera_seg.checkpoint.unpickle import allow_unsafe_pickle
from hiera_seg.cli.config_files import load_config
from hiera_seg.cli.expected_errors import FILE_ONLY
from hiera_seg.cli.logs import start_log
from hiera_seg.cli.output_folder import claim_output_folder
from hiera_seg.cli.threads import set_threads
from hiera_seg.config import resolve_hierarchy
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.disk import naming
from hiera_seg.engine.randomness import with_seed
from hiera_seg.errors import ConfigError

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config of a run and start its log.

    A SEED below 0 is replaced by a drawn one, the same in all processes. The whole config goes to
    ``config.yaml`` and ``log.txt`` of OUTPUT_DIR, a few lines of it to the console.

    Args:
        args: of :func:`~hiera_seg.cli.argument_parser`, or of Detectron2's
            ``default_argument_parser``.

    Returns:
        The frozen config.

    Raises:
        ConfigError: see :func:`load_config`; no config file or dataset is named, a dataset is not
            registered, the class tree cannot be read, or OUTPUT_DIR cannot be written or is locked
            by another run.
    """
    evaluates = getattr(args, "eval_only", False)
    cfg = read_config(args)
    if not args.config_file:
        raise ConfigError("--config-file is missing; specify the config of the model")
    _check_datasets(cfg, evaluates)
    if cfg.MODEL.HIERA_SEG.HIERARCHY:
        resolve_hierarchy(cfg)
    cfg = with_seed(cfg)
    cfg.freeze()
    text = cfg.dump()
    start_run(args, cfg.OUTPUT_DIR, text, lambda path: Path(path).write_text(text), "OUTPUT_DIR")
    seed_all_rng(cfg.SEED + comm.get_rank())
    if not evaluates:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    threads = f"{torch.get_num_threads()} thread(s) each"
    logger.info(f"device: {cfg.MODEL.DEVICE}, {comm.get_world_size()} process(es), {threads}")
    logger.info(f"seed: {cfg.SEED}")
    return cfg


def read_config(args: argparse.Namespace, *opts: str, tool: str | None = None) -> CfgNode:
    """Import the modules that a command line names, read its config, and set NUM_THREADS.

    Args:
        args: of :func:`~hiera_seg.cli.arguments.add_config`, or see :func:`setup`.
        opts: keys and values that follow those of the command line.
        tool: the script, see :func:`~hiera_seg.data.catalog.import_modules`.

    Raises:
        ConfigError: see :func:`load_config`.
    """
    import_modules(getattr(args, "modules", ()), tool=tool)
    allow_unsafe_pickle(getattr(args, "unsafe_pickle", False))
    allow_remote = getattr(args, "allow_remote", False)
    cfg = load_config(args.config_file, [*args.opts, *opts], allow_remote=allow_remote)
    set_threads(cfg.NUM_THREADS)
    return cfg


def read_run_config(args: argparse.Namespace, *, tool: str) -> CfgNode:
    """Read the config of a run, with its folder as OUTPUT_DIR.

    Args:
        args: of :func:`~hiera_seg.cli.arguments.add_run` and ``add_config``. Without --config-file
            the config is ``config.yaml`` in the folder.
        tool: see :func:`read_config`.

    Raises:
        ConfigError: neither a run nor a config is named, or one of them cannot be read.
    """
    if args.run is None:
        if not args.config_file:
            raise ConfigError("--run and --config-file are missing; specify one of them")
        return read_config(args, tool=tool)
    if not args.run.is_dir():
        raise ConfigError(f"--run {args.run} is not a folder")
    stored = args.run / "config.yaml"
    if not args.config_file and stored.is_file():
        args.config_file = str(stored)
    cfg = read_config(args, tool=tool)
    cfg.OUTPUT_DIR = str(args.run)
    return cfg


def start_run(
    args: argparse.Namespace, folder: str, config: str, save: Callable[[str], object], key: str
) -> None:
    """Claim the output folder of a run, and log its environment, command line and config there.

    Args:
        args: of the command line.
        folder: the folder.
        config: the whole config as text, for the log.
        save: writes the config to a path, ``config.yaml``. An evaluation keeps the file of the
            run that it evaluates.
        key: config key of the folder, for messages.

    Raises:
        ConfigError: the folder cannot be written, or is locked by another run.
    """
    stored = os.path.join(folder, "config.yaml")
    keep = getattr(args, "eval_only", False) and os.path.exists(stored)
    claim_output_folder(folder, key)
    try:
        start_log(folder)
        if comm.is_main_process() and not keep:
            with naming(stored):
                save(stored)
    except OSError as error:
        raise ConfigError(f"{key} {folder} cannot be written: {error}") from error
    # Its import warns on machines without a CUDA compiler, which is not needed here
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    details = {"environment": collect_env_info(), "command line": args, "config": config}
    for name, text in details.items():
        logger.info(f"{name}:\n{text}", extra=FILE_ONLY)
    logger.info(f"config file: {args.config_file}")
    logger.info(f"output folder: {folder} (config.yaml and log.txt hold the whole config)")


def _check_datasets(cfg: CfgNode, evaluates: bool) -> None:
    for key in ("TEST",) if evaluates else ("TRAIN", "TEST"):
        needed = evaluates or key == "TRAIN"
        require_registered(cfg.DATASETS[key], f"DATASETS.{key}", some=needed)
