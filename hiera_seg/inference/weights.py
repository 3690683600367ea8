"""Weights to predict with: there, fitting, and trained."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from hiera_seg.checkpoint import SafeCheckpointer
from hiera_seg.checkpoint.loading import check_values
from hiera_seg.config import CheckpointError
from hiera_seg.hierarchy import Hierarchy

logger = logging.getLogger(__name__)


class RefusesUntrained:
    """Makes a checkpointer refuse weights that leave the head as it was drawn.

    Detectron2 warns of what a file lacks and goes on; predictions would be noise.

    Attributes:
        remedy: what to do, for the message.
    """

    remedy = "set MODEL.WEIGHTS to a trained model"

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
                f"the weights do not fit the config: {key} is {tuple(theirs)} in the file, and "
                f"{tuple(ours)} in the model (another class tree?)"
            )
        head = {key for key, _ in self.model.named_parameters() if key.startswith("sem_seg_head.")}
        if head and head <= set(incompatible.missing_keys):
            raise CheckpointError(
                "the weights hold no segmentation head (a backbone to begin training from?); "
                f"{self.remedy}"
            )
        super()._log_incompatible_keys(incompatible)


class _Checkpointer(RefusesUntrained, SafeCheckpointer):
    pass


def load_weights(
    model: nn.Module, path: str, *, map_classes: bool = False, average: bool = False
) -> None:
    """Load a checkpoint, of a kind that Detectron2 knows, into a model to predict with.

    Args:
        model: the model.
        path: MODEL.WEIGHTS; "" leaves the model as it is, with a warning.
        map_classes: MODEL.HIERA_SEG.MAP_CLASSES.
        average: SOLVER.EMA.ENABLED: take the average of the weights where the file holds one.

    Raises:
        CheckpointError: no such file, weights that do not fit, or none of the head.
    """
    if not path:
        logger.warning("MODEL.WEIGHTS is empty: what predicts is a network as it was drawn")
    found = _Checkpointer(model, map_classes=map_classes).load(path)
    if average:
        take_average(model, found, path)


def take_average(model: nn.Module, found: Mapping[str, Any], path: str) -> None:
    """Give a model the average of the weights that its training evaluated, if there is one.

    Args:
        model: with the weights of a checkpoint.
        found: what else the checkpoint holds, as its ``load`` returns it.
        path: the checkpoint, for messages.

    Raises:
        CheckpointError: the average does not fit the model.
    """
    if "ema" not in found:
        return
    try:
        check_values(model, found["ema"], path)
        model.load_state_dict(found["ema"])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f'the averaged weights ("ema") in {path} do not fit the model: {reason}; '
            "SOLVER.EMA.ENABLED False takes the weights beside them"
        ) from error
    logger.info(f"Taking the average of the weights that {path} holds")
