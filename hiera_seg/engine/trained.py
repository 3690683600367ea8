"""Loading weights that are to be judged or used: they have to be there, and trained."""

import logging

from detectron2.config import CfgNode
from torch import nn

from hiera_seg.config import ConfigError
from hiera_seg.engine.checkpoint import HieraCheckpointer
from hiera_seg.inference import RefusesUntrained, take_average

logger = logging.getLogger(__name__)


class TrainedCheckpointer(RefusesUntrained, HieraCheckpointer):
    """Loads what a run saved, and refuses weights that leave the head as it was drawn."""


def last_checkpoint(folder: str) -> str:
    """The file that ``--resume`` goes on from; "" where a run has saved none there."""
    checkpointer = HieraCheckpointer(nn.Module(), folder)
    return checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else ""


def with_weights(cfg: CfgNode, weights: str) -> CfgNode:
    """A copy for a model that is going to have `weights`: its parts fetch none of their own."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    return cfg


def load_to_evaluate(
    model: nn.Module,
    folder: str,
    weights: str,
    *,
    resume: bool,
    key: str = "MODEL.WEIGHTS",
    map_classes: bool = False,
    average: bool = False,
) -> None:
    """Load the weights that an evaluation judges.

    A network as it was drawn is evaluated, with a warning, as Detectron2 does; but not into the
    folder of a run, where ``--resume`` was forgotten and the numbers of the run would be lost.

    Args:
        model: without a wrapper for several processes.
        folder: where the run has its checkpoints.
        weights: a checkpoint.
        resume: take the last checkpoint of `folder` instead, if there is one.
        key: the config key that holds `weights`.
        map_classes: MODEL.HIERA_SEG.MAP_CLASSES.
        average: take the average of the weights, where the checkpoint has one.

    Raises:
        ConfigError: there are no weights, though `folder` holds a checkpoint or one was asked for.
        CheckpointError: weights that can not be read or do not fit; or they have none of the head,
            and `folder` holds a checkpoint.
    """
    checkpointer = TrainedCheckpointer(model, folder, map_classes=map_classes)
    checkpointer.remedy = f"set {key} to a trained model"
    if not resume:
        checkpointer.remedy += f", or add --resume, which takes the last checkpoint in {folder}"
    last = last_checkpoint(folder)
    path = last if resume and last else weights
    if not path and (resume or last):
        found = f", and there is no checkpoint in {folder}" if resume else ""
        raise ConfigError(f"nothing to evaluate: {key} is empty{found}; {checkpointer.remedy}")
    if not path:
        logger.warning(f"{key} is empty: what is evaluated is a network as it was drawn")
    if not (resume or last):
        checkpointer = HieraCheckpointer(model, folder, map_classes=map_classes)
    content = checkpointer.resume_or_load(weights, resume=resume)
    if average:
        take_average(model, content, path)
