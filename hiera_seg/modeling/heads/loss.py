"""What every head needs for its losses: the terms a config names, the denominator, the clock."""

import math
from typing import Any

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from hiera_seg.config import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import HIERA_LOSSES, HierarchicalLoss, valid_pixels

KEY = "MODEL.HIERA_SEG.LOSSES"


def build_hierarchical_loss(
    cfg: CfgNode, hierarchy: Hierarchy, ignore_label: int
) -> HierarchicalLoss:
    """The weighted sum of losses that MODEL.HIERA_SEG.LOSSES names.

    Raises:
        ConfigError: a malformed entry, an unknown name, or an option that the loss refuses.
    """
    terms = [(name, weight, _options(cfg, name)) for name, weight in _entries(cfg)]
    try:
        return HierarchicalLoss(hierarchy, terms, ignore_label)
    except (TypeError, ValueError) as error:
        used = ", ".join(f"MODEL.HIERA_SEG.{name.upper()} {options}" for name, _, options in terms)
        raise ConfigError(f"{KEY} can not be built from {used}: {error}") from error


def global_valid_pixels(labels: Tensor, hierarchy: Hierarchy, ignore_label: int) -> Tensor:
    """Mean over processes of the number of valid pixels, and of those that reach each level.

    With it as denominator the gradient that DDP averages over N processes is that of one process
    with all the images.

    Args:
        labels: (B, H, W) int64 node ids, void = ``ignore_label``.

    Returns:
        Float (1 + num_levels,), the same on every process.
    """
    counts = valid_pixels(labels, hierarchy, ignore_label)
    world_size = comm.get_world_size()
    if world_size > 1:
        dist.all_reduce(counts)
        counts = counts / world_size
    return counts


def training_iteration() -> int | None:
    """The iteration of the Detectron2 trainer that is running, or None outside of one."""
    try:
        return get_event_storage().iter
    except AssertionError:  # what Detectron2 raises where there is no storage
        return None


def _entries(cfg: CfgNode) -> list[tuple[str, float]]:
    entries = cfg.MODEL.HIERA_SEG.LOSSES
    known = sorted(name for name, _ in HIERA_LOSSES)
    rule = (
        f"{KEY} is a list of [name, weight], such as [['focal_tree_min', 1.0]]; "
        f"names: {', '.join(known)}; weights: numbers >= 0"
    )
    if not isinstance(entries, list | tuple) or not entries:
        raise ConfigError(f"{rule}; found {entries!r}")
    seen: set[str] = set()
    for entry in entries:
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise ConfigError(f"{rule}; found the entry {entry!r}")
        name, weight = entry
        if name not in known:
            raise ConfigError(f"{rule}; found the name {name!r}")
        if name in seen:
            raise ConfigError(f"{rule}; found {name!r} twice")
        if not _is_weight(weight):
            raise ConfigError(f"{rule}; found the weight {weight!r} of {name!r}")
        seen.add(name)
    return [(name, float(weight)) for name, weight in entries]


def _is_weight(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _options(cfg: CfgNode, name: str) -> dict[str, Any]:
    node = cfg.MODEL.HIERA_SEG.get(name.upper())
    options = {key.lower(): value for key, value in node.items()} if node is not None else {}
    # yaml has no way to write "the default" of these that type checks, so the keys use a number
    # or an empty list where the losses take None
    if not options.get("level_weights", True):
        options["level_weights"] = None
    if options.get("margin", 0.0) < 0:
        options["margin"] = None
    if options.get("schedule_iters") == 0:
        options["schedule_iters"] = cfg.SOLVER.MAX_ITER
    return options
