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
        module: a network, not itself a SyncBN.
        device_type: "cpu", "cuda", ...

    Returns:
        The number of replaced layers.
    """
    if device_type != "cpu" and comm.get_world_size() > 1:
        return 0
    replaced: dict[int, nn.BatchNorm2d] = {}  # by id, to keep shared layers shared
    for path, child in list(module.named_modules(remove_duplicate=False)):
        if isinstance(child, nn.SyncBatchNorm):
            if id(child) not in replaced:
                replaced[id(child)] = _batch_norm_like(child)
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, replaced[id(child)])
    if replaced:
        where = "on a CPU" if device_type == "cpu" else "in a single process"
        logger.info("%d SyncBN layers run as BN %s", len(replaced), where)
    return len(replaced)


def _batch_norm_like(sync: nn.SyncBatchNorm) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(
        sync.num_features, sync.eps, sync.momentum, sync.affine, sync.track_running_stats
    )
    norm.weight, norm.bias = sync.weight, sync.bias  # the same objects, frozen or not
    norm.running_mean, norm.running_var = sync.running_mean, sync.running_var
    norm.num_batches_tracked = sync.num_batches_tracked
    norm.train(sync.training)
    return norm
