"""Build configured losses, average normalizers over processes and seed sampling, for all heads."""

import inspect
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn import functional as F

from hiera_seg.checkpoint import local_path
from hiera_seg.compat import has_event_storage
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import (
    HIERA_LOSSES,
    NODE_WEIGHT_METHODS,
    HierarchicalLoss,
    node_weights_from_counts,
    read_node_counts,
)

KEY = "MODEL.HIERA_SEG.LOSSES"
WEIGHTS_KEY = "MODEL.HIERA_SEG.NODE_WEIGHTS"


def build_hierarchical_loss(
    cfg: CfgNode, hierarchy: Hierarchy, ignore_label: int
) -> HierarchicalLoss:
    """Build the weighted sum of the losses in MODEL.HIERA_SEG.LOSSES.

    The options of a loss are the keys of MODEL.HIERA_SEG.<NAME>, if that node exists.

    Raises:
        ConfigError: a malformed entry, an unknown name, or an invalid weight or option.
    """
    entries = cfg.MODEL.HIERA_SEG.LOSSES
    for entry in [entries] if isinstance(entries, str) else entries:
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ConfigError(
                f"{KEY} contains {entry!r}; set a list of [name, weight], such as "
                f"[['focal_tree_min', 1.0]], with names among {', '.join(HIERA_LOSSES.names())}"
            )
    node_weights = _node_weights(cfg, hierarchy)
    terms = [(name, weight, _options(cfg, name, node_weights)) for name, weight in entries]
    if node_weights is not None and not any("node_weights" in term[2] for term in terms):
        raise ConfigError(
            f"{WEIGHTS_KEY}.METHOD is {cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.METHOD!r}, but no loss of "
            f"{KEY} takes node weights; add one of "
            f"{', '.join(filter(_takes_node_weights, HIERA_LOSSES.names()))}"
        )
    try:
        return HierarchicalLoss(hierarchy, terms, ignore_label)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def at_label_size(logits: Tensor, labels: Tensor) -> Tensor:
    """Resize logits (B, C, h, w) to the size of labels (B, H, W), in float32 or float64."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)


def mean_over_processes(normalizer: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, or the tensor itself in a single process.

    With the mean of the processes' normalizers, the gradient that DDP averages over N processes
    equals that of one process with all images. The tensor is on the device of the model.
    """
    world_size = comm.get_world_size()
    if world_size > 1:
        normalizer = normalizer.clone()
        dist.all_reduce(normalizer)
        normalizer = normalizer / world_size
    return normalizer


def training_iteration() -> int | None:
    """Return the iteration of the running Detectron2 trainer, or None outside of training."""
    return get_event_storage().iter if has_event_storage() else None


def sampling_generator(
    seed: int | None, iteration: int | None, device: torch.device | str = "cpu"
) -> torch.Generator | None:
    """Return a generator whose values depend only on the seed, the iteration and the rank.

    None stands for PyTorch's global one, which is used without a seed (None or below 0) or an
    iteration.
    """
    if seed is None or seed < 0 or iteration is None:
        return None
    state = np.random.SeedSequence([seed, iteration, comm.get_rank()]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))  # a signed number


def _options(cfg: CfgNode, name: str, node_weights: np.ndarray | None) -> dict[str, Any]:
    node = cfg.MODEL.HIERA_SEG.get(name.upper())
    options = {key.lower(): value for key, value in node.items()} if node is not None else {}
    if options.get("schedule_iters") == 0:
        options["schedule_iters"] = cfg.SOLVER.MAX_ITER
    if node_weights is not None and name in HIERA_LOSSES and _takes_node_weights(name):
        options["node_weights"] = node_weights
    return options


def _takes_node_weights(name: str) -> bool:
    return "node_weights" in inspect.signature(HIERA_LOSSES.get(name)).parameters


def _node_weights(cfg: CfgNode, hierarchy: Hierarchy) -> np.ndarray | None:
    """Return (N,) weights as configured by MODEL.HIERA_SEG.NODE_WEIGHTS, or None."""
    keys = cfg.MODEL.HIERA_SEG.NODE_WEIGHTS
    if not keys.METHOD and not keys.FILE:
        return None
    try:
        pixels = read_node_counts(local_path(keys.FILE), hierarchy)
        return node_weights_from_counts(pixels, hierarchy, keys.METHOD, maximum=keys.MAX)
    except ValueError as error:
        raise ConfigError(
            f"{WEIGHTS_KEY} has METHOD {keys.METHOD!r} and FILE {keys.FILE!r}: {error}; choose a "
            f"method of {NODE_WEIGHT_METHODS}, and a file of tools/count_nodes.py"
        ) from error
