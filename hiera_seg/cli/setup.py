"""Set up a run: parse the command line, read the config, start the log."""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from hiera_seg.checkpoint.unpickle import allow_unsafe_pickle
from hiera_seg.cli.arguments import add_import, add_remote_config, add_unsafe_pickle
from hiera_seg.cli.config_files import load_config
from hiera_seg.cli.logs import start_log
from hiera_seg.cli.output_folder import claim_output_folder
from hiera_seg.config import resolve_hierarchy
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.disk import naming
from hiera_seg.engine.expected_errors import FILE_ONLY
from hiera_seg.engine.randomness import with_seed
from hiera_seg.errors import ConfigError

logger = logging.getLogger(__name__)


def argument_parser(epilog: str | None = None, *, trials: bool = True) -> argparse.ArgumentParser:
    """Detectron2's command line for training, and what tries a config before it.

    Args:
        epilog: examples for the help.
        trials: whether the tool can do what --dry-run and --fast-dev-run ask for.
    """
    parser = default_argument_parser(epilog)
    add_unsafe_pickle(parser)
    add_import(parser)
    add_remote_config(parser)
    if not trials:
        return parser
    parser.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="try the config in seconds: one iteration and an evaluation on made-up images, on "
        "CPU, from random weights; needs no dataset, downloads and keeps nothing",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved config, the class tree, the parameters and what the first batch "
        "holds at each level, and end; trains and writes nothing",
    )
    parser.add_argument(
        "--iterations", type=int, default=1, metavar="N", help="of --fast-dev-run (1)"
    )
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """Make the frozen config of a run, and start its log.

    A SEED below 0 is replaced by a drawn one, the same in all processes. The whole config goes to
    ``config.yaml`` and ``log.txt`` of OUTPUT_DIR, a few lines of it to the console.

    Args:
        args: what :func:`argument_parser` gives, or Detectron2's ``default_argument_parser``.

    Raises:
        ConfigError: see :func:`load_config`; no config file or dataset is named, a dataset is not
            registered, the class tree cannot be read, or OUTPUT_DIR cannot be written or is held
            by another run.
    """
    evaluates = getattr(args, "eval_only", False)
    import_modules(getattr(args, "modules", ()))
    allow_unsafe_pickle(getattr(args, "unsafe_pickle", False))
    if not args.config_file:
        raise ConfigError("--config-file is missing; name the config of the model")
    cfg = load_config(
        args.config_file, args.opts, allow_remote=getattr(args, "allow_remote", False)
    )
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
    logger.info(f"device: {cfg.MODEL.DEVICE}, {comm.get_world_size()} process(es)")
    logger.info(f"seed: {cfg.SEED}")
    return cfg


def start_run(
    args: argparse.Namespace, folder: str, config: str, save: Callable[[str], object], key: str
) -> None:
    """Start the log of a run, and write its environment, command line and config there.

    Args:
        args: of the command line.
        folder: of the run.
        config: the whole config as text, for the log.
        save: writes the config to a path, ``config.yaml``. An evaluation leaves that of the run
            that it evaluates as it is.
        key: of the folder, for messages.

    Raises:
        ConfigError: the folder cannot be written, or another run holds it.
    """
    stored = os.path.join(folder, "config.yaml")
    claim_output_folder(folder, key)
    try:
        start_log(folder)
        if comm.is_main_process() and not (
            getattr(args, "eval_only", False) and os.path.exists(stored)
        ):
            with naming(stored):
                save(stored)
    except OSError as error:
        raise ConfigError(f"{key} {folder} cannot be written: {error}") from error
    # its import warns on machines without CUDA's compiler, which nothing here uses
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    details = {"environment": collect_env_info(), "command line": args, "config": config}
    for name, text in details.items():
        logger.info(f"{name}:\n{text}", extra=FILE_ONLY)
    logger.info(f"config file: {args.config_file}")
    logger.info(f"output folder: {folder} (config.yaml and log.txt hold the whole config)")


def _check_datasets(cfg: CfgNode, evaluates: bool) -> None:
    if not evaluates:
        if not cfg.DATASETS.TRAIN:
            raise ConfigError("DATASETS.TRAIN is empty; name at least one registered dataset")
        require_registered(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    elif not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name what is to be evaluated")
    require_registered(cfg.DATASETS.TEST, "DATASETS.TEST")
