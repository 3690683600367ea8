"""Find the weights to evaluate or predict with, and load them only if they are trained."""

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.checkpoint.checkpointer import check_values
from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.modeling.build import build_model

logger = logging.getLogger(__name__)

KEY = "MODEL.WEIGHTS"


class RequireHeadWeights(HieraCheckpointer):
    """A checkpointer that raises if a file has no weights for the segmentation head.

    Detectron2 only warns about missing weights; the head would predict noise.
    """

    _path = ""  # of the file being loaded, for messages

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        self._path = path
        return super().load(path, checkpointables)

    def _report_mapping(self, path: str, missing: list[str], ours: Hierarchy) -> None:
        if missing:
            raise CheckpointError(
                f"{path} holds no weights of {', '.join(missing)}: its own tree does not have "
                f"these nodes of tree {ours.name!r}; train on from it, or take a tree that it knows"
            )
        super()._report_mapping(path, missing, ours)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        for key, theirs, ours in incompatible.incorrect_shapes:
            raise CheckpointError(
                f"{self._path}: the weights do not fit the config: {key} is {tuple(theirs)} in the "
                f"file, and {tuple(ours)} in the model (another class tree?)"
            )
        head = {key for key, _ in self.model.named_parameters() if key.startswith("sem_seg_head.")}
        if head and head <= set(incompatible.missing_keys):
            raise CheckpointError(
                f"{self._path}: the weights hold no segmentation head (a backbone to begin "
                f"training from?); set {KEY} to a trained model"
            )
        super()._log_incompatible_keys(incompatible)


def last_checkpoint(folder: str) -> str:
    """Return the checkpoint that ``--resume`` continues from; "" if the folder has none."""
    checkpointer = HieraCheckpointer(nn.Module(), folder)
    path = checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else ""
    if path and not os.path.isfile(path):
        raise CheckpointError(
            f"{os.path.join(folder, 'last_checkpoint')} names {os.path.basename(path)!r}, which "
            f"is not there; write the name of another checkpoint into it, or set {KEY}"
        )
    return path


def find_weights(
    weights: str, folder: str, *, typed: bool = True, resume: bool = False, key: str = KEY
) -> str:
    """Return the weights that an evaluation or prediction uses, by the same rule in all tools.

    These are `weights` if they were typed, else the last checkpoint of `folder`, else `weights`
    of the config file.

    Args:
        weights: what MODEL.WEIGHTS is, in the end.
        folder: OUTPUT_DIR, where the run has its checkpoints.
        typed: whether `weights` were given on the command line (or in Python), rather than in a
            config file, where they are often those that a training begins from.
        resume: take the last checkpoint of `folder` even if weights were typed.
        key: of `weights`, for messages.

    Raises:
        ConfigError: there are none.
        CheckpointError: the last checkpoint is named, but not there.
    """
    if weights and typed and not resume:
        return weights
    last = last_checkpoint(folder)
    if last:
        logger.info(f"Using the last checkpoint of {folder}: {last}")
    elif not weights:
        raise ConfigError(
            f"no weights to evaluate: {key} is empty, and there is no checkpoint in {folder}; "
            f"set {key} to a trained model, or train first"
        )
    return last or weights


def with_weights(cfg: CfgNode, weights: str) -> CfgNode:
    """Return a copy of a config with MODEL.WEIGHTS set to `weights`.

    Backbones do not download weights of their own then.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    return cfg


def load_for_eval(
    model: nn.Module, path: str, *, map_classes: bool = False, average: bool = False
) -> None:
    """Load trained weights of a whole model.

    Args:
        model: without a wrapper for several processes.
        path: a checkpoint.
        map_classes: MODEL.HIERA_SEG.MAP_CLASSES.
        average: SOLVER.EMA.ENABLED: take the average of the weights where the file holds one.

    Raises:
        CheckpointError: no such file, weights that do not fit, or none of the head.
    """
    found = RequireHeadWeights(model, map_classes=map_classes).load(path)
    if average and "ema" in found:
        _take_average(model, found["ema"], path)


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
        opts: keys and values of the command line; MODEL.WEIGHTS counts as typed if it is among
            them. None: it counts as typed.
        resume: see :func:`find_weights`.
        build: makes a model of a config.

    Returns:
        The model, and the path of its weights.

    Raises:
        ConfigError, CheckpointError: no weights, or weights that do not fit.
    """
    path = find_weights(
        cfg.MODEL.WEIGHTS,
        cfg.OUTPUT_DIR,
        typed=opts is None or KEY in opts,
        resume=resume,
    )
    model = build(with_weights(cfg, path))
    load_for_eval(
        model,
        path,
        map_classes=cfg.MODEL.HIERA_SEG.MAP_CLASSES,
        average=cfg.SOLVER.EMA.ENABLED,
    )
    return model, path


def _take_average(model: nn.Module, average: Mapping[str, Any], path: str) -> None:
    """Load the average of the weights, which the evaluations of the training used."""
    try:
        check_values(model, average, path)
        model.load_state_dict(average)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f'the averaged weights ("ema") in {path} do not fit the model: {reason}; '
            "SOLVER.EMA.ENABLED False takes the weights beside them"
        ) from error
    logger.info(f"Taking the average of the weights that {path} holds")
