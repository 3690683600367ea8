"""From a command line to a config that can run on this machine."""

import argparse
import logging
import os
import re
from collections.abc import Iterable

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hiera_seg.checkpoint.unpickle import allow_unsafe_pickle
from hiera_seg.config import ConfigError, add_hiera_seg_config
from hiera_seg.data.catalog import import_modules
from hiera_seg.disk import naming
from hiera_seg.engine.options import add_import, add_unsafe_pickle
from hiera_seg.engine.output_folder import claim_output_folder
from hiera_seg.engine.randomness import with_seed

logger = logging.getLogger(__name__)


def load_config(config_file: str, opts: list[str]) -> CfgNode:
    """Read a config file and the KEY VALUE pairs of a command line, for this machine.

    MODEL.DEVICE becomes "cpu" where it names a GPU and there is none.

    Raises:
        ConfigError: a file that can not be read, an unknown key, a value of the wrong type.
    """
    cfg = _read_config(config_file, opts)
    _choose_device(cfg)
    return cfg


def argument_parser(epilog: str | None = None, *, trials: bool = True) -> argparse.ArgumentParser:
    """Detectron2's command line for training, and what tries a config before it.

    Args:
        epilog: examples for the help.
        trials: whether the tool can do what --dry-run and --fast-dev-run ask for.
    """
    parser = default_argument_parser(epilog)
    add_unsafe_pickle(parser)
    add_import(parser)
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

    A SEED below 0 is replaced by a drawn one, the same in all processes.

    Args:
        args: what :func:`argument_parser` gives, or Detectron2's ``default_argument_parser``.

    Raises:
        ConfigError: see :func:`load_config`; or OUTPUT_DIR cannot be written, or another
            run holds it.
    """
    import_modules(getattr(args, "modules", ()))
    allow_unsafe_pickle(getattr(args, "unsafe_pickle", False))
    cfg = _read_config(args.config_file, args.opts)
    claim_output_folder(cfg.OUTPUT_DIR)
    try:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hiera_seg")
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {cfg.OUTPUT_DIR} can not be written: {error}") from error
    _choose_device(cfg)
    cfg = with_seed(cfg)
    cfg.freeze()
    with naming(os.path.join(cfg.OUTPUT_DIR, "config.yaml")):
        default_setup(cfg, args)
    return cfg


def refuse_switches(opts: Iterable[object]) -> None:
    """Check that no switch stands among KEY VALUE pairs, which take all words after them.

    Raises:
        ConfigError: one does.
    """
    for word in opts:
        if isinstance(word, str) and word.startswith("--"):
            raise ConfigError(f"{word} stands after KEY VALUE pairs: put switches before them")


def _read_config(config_file: str, opts: list[str]) -> CfgNode:
    refuse_switches(opts)
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    defaults = cfg.MODEL.HIERA_SEG.clone()
    try:
        if config_file:
            cfg.merge_from_file(config_file, allow_unsafe=False)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"config file {config_file}: {_yaml_reason(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"config file {config_file}: its _BASE_ files name each other") from error
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"config file {config_file}: it, or a _BASE_ of it, does not hold keys with their "
            f"values, such as MODEL: {{DEVICE: cpu}} ({_reason(error)})"
        ) from error
    except Exception as error:
        raise ConfigError(f"config file {config_file}: {_reason(error)}") from error
    try:
        cfg.merge_from_list(opts)
    except Exception as error:
        raise ConfigError(f"options {' '.join(opts)}: {_reason(error)}") from error
    _refuse_none(cfg.MODEL.HIERA_SEG, defaults, "MODEL.HIERA_SEG")
    return cfg


def _refuse_none(node: CfgNode, defaults: CfgNode, name: str) -> None:
    """yacs lets any value be None, which keys that need one can not work with."""
    for key, default in defaults.items():
        if isinstance(default, CfgNode):
            _refuse_none(node[key], default, f"{name}.{key}")
        elif node[key] is None and default not in (None, ""):
            raise ConfigError(f"{name}.{key} is None; its default is {default!r}")


def _choose_device(cfg: CfgNode) -> None:
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ConfigError(
            f'MODEL.DEVICE is {cfg.MODEL.DEVICE!r}: choose "cuda", "cuda:1" or "cpu"'
        ) from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info(f"No GPU here: MODEL.DEVICE {cfg.MODEL.DEVICE} is replaced by cpu")
        cfg.MODEL.DEVICE = "cpu"


def _yaml_reason(error: yaml.MarkedYAMLError) -> str:
    """What is wrong in which file and line; a base may be the file."""
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}: " if mark is not None else ""
    tag = re.search(r"tag:yaml\.org,2002:(python/[^\s']+)", error.problem or "")
    if tag:
        return (
            f"{where}the tag !!{tag[1]} is refused, because it could run code; write lists, not "
            "tuples, and plain values"
        )
    return f"{where}{error.problem or error}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError | UnicodeError):
        return str(error)
    # str(KeyError) is the repr of its message; an AssertionError may have none
    return str(error.args[0]) if error.args else type(error).__name__
