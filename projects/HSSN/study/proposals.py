"""Losses of our own that the study puts to the test.

**adjusted_ce**: the softmax over leaves of marginal_ce, trained with logits that are shifted by how
frequent a leaf is (logit adjustment: Menon et al., *Long-tail learning via logit adjustment*, ICLR
2021, eq. 10), so that rare leaves need not be outbid by frequent ones at test time. That moves mass
between all classes, and the coarse levels, whose classes are frequent, may lose by it. Within
``siblings`` the shift is tau log p(leaf | parent): mass moves inside a family alone, and what the
network says about the parents stays calibrated.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode as CN
from torch import Tensor

from hiera_seg.data.counts import count_nodes
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import HIERA_LOSSES, read_node_counts, write_node_counts
from hiera_seg.losses.cross_entropy import MarginalCELoss

WITHIN = ("all", "siblings")


def add_proposal_config(cfg: CN) -> None:
    """Add the keys of the losses of this file."""
    cfg.MODEL.HIERA_SEG.ADJUSTED_CE = CN()
    keys = cfg.MODEL.HIERA_SEG.ADJUSTED_CE
    keys.WITHIN = "siblings"  # or "all": the shift by frequency among all leaves
    keys.TAU = 1.0  # how far logits are shifted
    keys.FILE = ""  # counts of the training set, as tools/count_nodes.py writes them
    keys.LEVEL_WEIGHTS = []


def leaf_shifts(pixels: np.ndarray, hierarchy: Hierarchy, within: str) -> np.ndarray:
    """log of each leaf's share of the pixels of its parent, or of all.

    Args:
        pixels: (N,) labelled with each node.
        hierarchy: the tree.
        within: one of `WITHIN`.

    Returns:
        float64 (L,), 0 or less. A pixel is added to each leaf, so that it is finite.
    """
    if within not in WITHIN:
        raise ValueError(f"within is {within!r}; choose one of {WITHIN}")
    leaves = pixels[: hierarchy.num_leaves] + 1.0
    if within == "all":
        return np.log(leaves / leaves.sum())
    parents = hierarchy.parent[: hierarchy.num_leaves]
    family = parents[:, None] == parents[None, :]
    return np.log(leaves / (family @ leaves))


@HIERA_LOSSES.register(name="adjusted_ce")
class AdjustedCE(MarginalCELoss):
    """marginal_ce of shifted logits; see the module."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        ignore_label: int = 255,
        file: str = "",
        within: str = "siblings",
        tau: float = 1.0,
        level_weights: Sequence[float] | None = None,
    ):
        super().__init__(hierarchy, ignore_label=ignore_label, level_weights=level_weights)
        shift = np.zeros(hierarchy.num_nodes)
        shifts = leaf_shifts(read_node_counts(file, hierarchy), hierarchy, within)
        shift[: hierarchy.num_leaves] = tau * shifts
        self.register_buffer("shift", torch.from_numpy(shift).float().view(1, -1, 1, 1), False)

    def forward(
        self, logits: Tensor, labels: Tensor, *, valid_count: Tensor | None = None
    ) -> Tensor:
        return super().forward(logits + self.shift, labels, valid_count=valid_count)


def ensure_counts(names: Sequence[str], path: Path) -> None:
    """Count the pixels of training sets into a file, unless it is there."""
    if path.exists():
        return
    counts = count_nodes(names)
    mine = path.with_suffix(f".{os.getpid()}.tmp")  # another run may be counting too
    write_node_counts(mine, counts.pixels, datasets=list(names), images=counts.images)
    os.replace(mine, path)
