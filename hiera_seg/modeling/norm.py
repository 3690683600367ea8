"""Replace synchronised batch norm where it is impossible or has no effect."""

import logging

from detectron2.utils import comm
from torch import nn

logger = logging.getLogger(__name__)


def fall_back_to_batch_norm(module: nn.Module, device_type: str) -> int:
    """Replace SyncBN by BN, in place, on a CPU or in a single process.

    ``nn.SyncBatchNorm`` does not support CPU tensors in a process group, and in one process it
    equals BN. Parameters, statistics and their names are kept. Other norms (FrozenBN, GN, and
    Detectron2's NaiveSyncBatchNorm, which runs anywhere) do not change.

    Args:
        module: a network.
        device_type: "cpu", "cuda", ...

    Returns:
        The number of replaced layers.
    """
    if device_type != "cpu" and comm.get_world_size() > 1:
        return 0
    norms = [child for child in module.modules() if type(child) is nn.SyncBatchNorm]
    for norm in norms:
        norm.__class__ = nn.BatchNorm2d  # of the same state, so that shared layers stay shared
    if norms:
        where = "on a CPU" if device_type == "cpu" else "in a single process"
        logger.info("%d SyncBN layers run as BN %s", len(norms), where)
    return len(norms)
