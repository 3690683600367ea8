"""Batch norm that fits the machine: synchronised only where that is possible and does something."""

import logging

from detectron2.utils import comm
from torch import nn

logger = logging.getLogger(__name__)


def fall_back_to_batch_norm(module: nn.Module, device_type: str) -> int:
    """Turn SyncBN into BN, in place, on a CPU or in a single process.

    ``nn.SyncBatchNorm`` refuses CPU tensors in a process group, and in one process it computes
    what BN does. Parameters, statistics and their names stay; other norms (FrozenBN, GN,
    Detectron2's NaiveSyncBatchNorm, which runs anywhere) are left alone.

    Args:
        module: a network. It is not itself a SyncBN.
        device_type: where it will run: "cpu", "cuda", ...

    Returns:
        How many layers were turned.
    """
    if device_type != "cpu" and comm.get_world_size() > 1:
        return 0
    turned: dict[int, nn.BatchNorm2d] = {}  # by id: a layer used in two places stays one layer
    for path, child in list(module.named_modules(remove_duplicate=False)):
        if isinstance(child, nn.SyncBatchNorm):
            if id(child) not in turned:
                turned[id(child)] = _batch_norm_like(child)
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, turned[id(child)])
    if turned:
        where = "on a CPU" if device_type == "cpu" else "in a single process"
        logger.info("%d SyncBN layers run as BN %s", len(turned), where)
    return len(turned)


def _batch_norm_like(sync: nn.SyncBatchNorm) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(
        sync.num_features, sync.eps, sync.momentum, sync.affine, sync.track_running_stats
    )
    norm.weight, norm.bias = sync.weight, sync.bias  # the same objects: a frozen one stays frozen
    norm.running_mean, norm.running_var = sync.running_mean, sync.running_var
    norm.num_batches_tracked = sync.num_batches_tracked
    norm.train(sync.training)
    return norm
