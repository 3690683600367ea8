"""Find the weights to evaluate or predict with, and load them if they are trained."""

import logging
from collections.abc import Callable, Collection

from detectron2.config import CfgNode
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.checkpoint.checkpointer import check_values
from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.modeling.build import build_model

logger = logging.getLogger(__name__)

KEY = "MODEL.WEIGHTS"


def find_weights(
    weights: str, folder: str, *, typed: bool = True, resume: bool = False, key: str = KEY
) -> str:
    """Return the weights that an evaluation or prediction uses, by the same rule in all tools.

    These are `weights` if they were typed, else the last checkpoint of `folder`, else `weights`
    of the config file.

    Args:
        weights: the value of MODEL.WEIGHTS.
        folder: OUTPUT_DIR, where the run writes its checkpoints.
        typed: whether `weights` were given on the command line (or in Python), rather than in a
            config file, where they are often the pretrained weights of a training.
        resume: use the last checkpoint of `folder` even if weights were typed.
        key: the config key of `weights`, for messages.

    Raises:
        ConfigError: there are none.
        CheckpointError: ``last_checkpoint`` names a file that does not exist.
    """
    if weights and typed and not resume:
        return weights
    last = HieraCheckpointer(nn.Module(), folder).last_checkpoint()
    if last:
        logger.info(f"Using the last checkpoint of {folder}: {last}")
    elif not weights:
        raise ConfigError(
            f"no weights to evaluate: {key} is empty, and {folder} has no checkpoint; set {key} to "
            "a trained model, or train first"
        )
    return last or weights


def load_for_eval(
    model: nn.Module, path: str, *, map_classes: bool = False, average: bool = False
) -> None:
    """Load trained weights of a whole model.

    Args:
        model: not wrapped for several processes.
        path: a checkpoint.
        map_classes: MODEL.HIERA_SEG.MAP_CLASSES.
        average: SOLVER.EMA.ENABLED: use the averaged weights if the file has them.

    Raises:
        CheckpointError: no such file, weights that do not fit, or none for the head.
    """
    found = HieraCheckpointer(model, map_classes=map_classes, require_head=True).load(path)
    if not average or "ema" not in found:
        return
    try:
        check_values(model, found["ema"], path)
        model.load_state_dict(found["ema"])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f'{path}: the averaged weights ("ema") do not fit the model: {reason}; set '
            "SOLVER.EMA.ENABLED False to use the others"
        ) from error
    logger.info(f"Using the averaged weights of {path}")


def build_for_eval(
    cfg: CfgNode,
    opts: Collection[str] | None = None,
    *,
    resume: bool = False,
    build: Callable[[CfgNode], nn.Module] = build_model,
) -> tuple[nn.Module, str]:
    """Build the model of a config with the weights of :func:`find_weights`.

    Args:
        cfg: the config.
        opts: keys and values of the command line; MODEL.WEIGHTS was typed if it is among them.
            None: it was typed.
        resume: see :func:`find_weights`.
        build: builds the model of a config.

    Returns:
        The model, and the path of its weights.

    Raises:
        ConfigError: there are no weights.
        CheckpointError: the weights do not fit.
    """
    typed = opts is None or KEY in opts
    path = find_weights(cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, typed=typed, resume=resume)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = path  # backbones then do not download their own pretrained weights
    node_weights = cfg.MODEL.HIERA_SEG.NODE_WEIGHTS
    node_weights.METHOD = node_weights.FILE = ""  # used in training only; the file may be gone
    model = build(cfg)
    load_for_eval(
        model,
        path,
        map_classes=cfg.MODEL.HIERA_SEG.MAP_CLASSES,
        average=cfg.SOLVER.EMA.ENABLED,
    )
    return model, path
