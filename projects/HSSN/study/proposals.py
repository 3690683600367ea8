"""Define the study's proposals and their control: other ways to decode a softmax.

**sibling_adjusted** (`hiera_seg.layers.SiblingAdjustment`): the probability of a node among its
siblings is divided by its share of their pixels to a power, so that a rare leaf gains from its own
family alone, and the best path is that of the summed probabilities; **level_sibling_adjusted** is
the same for a softmax a level. The control knows no tree: **prior_adjusted** divides every leaf's
probability by its share of all pixels to a power, as in Menon et al., *Long-tail learning via logit
adjustment*, ICLR 2021, sec. 4.1. The powers are chosen on held-out images.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hiera_seg.data.node_counts import count_nodes
from hiera_seg.losses import write_node_counts
from hiera_seg.modeling import HieraSegmentor


@torch.no_grad()
def adjust_priors(model: HieraSegmentor, pixels: np.ndarray, strength: float) -> None:
    """Shift the logits of the leaves by their shares of all pixels.

    Args:
        model: its classifier's bias is changed.
        pixels: (N,) labelled with each node; a pixel more is counted for each leaf.
        strength: the power.
    """
    leaves = model.hierarchy.num_leaves
    shares = pixels[:leaves] + 1.0
    shift = torch.from_numpy(strength * np.log(shares / shares.sum()))
    model.sem_seg_head.predictor.bias[:leaves] -= shift.to(model.device, torch.float32)


def ensure_counts(names: Sequence[str], path: Path) -> None:
    """Count the pixels of training sets into a file, unless it is there."""
    if path.exists():
        return
    counts = count_nodes(names)
    mine = path.with_suffix(f".{os.getpid()}.tmp")  # another run may be counting too
    write_node_counts(mine, counts.pixels, datasets=list(names), images=counts.images)
    os.replace(mine, path)
