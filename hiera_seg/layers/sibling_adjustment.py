"""Logit adjustment within families: rare classes gain from their own siblings alone.

Trained on pixels of which most are road, a softmax says "road" where it is not sure. Logit
adjustment (Menon et al., *Long-tail learning via logit adjustment*, ICLR 2021, sec. 4.1) divides
each class's probability by its frequency to a power tau: rare classes gain, from all others, and
where the frequencies differ by thousands a rare leaf can win half the image. In a tree the same can
be done family by family. With ``p(v | parent)`` the probability of a node among its siblings and
``f(v)`` its share of the pixels of its family in the training set,

    q(v | parent) = p(v | parent) f(v)^-tau / (the sum of the same over v and its siblings)

and the probability of a leaf is the product along its path. The top-level nodes keep what the
network gave them; so does every family as a whole, whatever its members do below it.
"""

import numpy as np
import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy

_LEAST = 1e-30  # of a leaf's probability, so that an improbable family still divides by something


def sibling_shares(pixels: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
    """Each node's share of the pixels of its family.

    Args:
        pixels: (N,), labelled with each node itself.
        hierarchy: the tree.

    Returns:
        float64 (N,) in (0, 1], 1 for nodes at the top. Every node counts one pixel more than it
        has, so that none has a share of 0.
    """
    parent = hierarchy.parent
    subtree = np.asarray(pixels, np.float64) @ hierarchy.ancestor_matrix + 1
    inner = parent >= 0
    family = np.zeros(hierarchy.num_nodes)
    np.add.at(family, parent[inner], subtree[inner])
    shares = np.ones(hierarchy.num_nodes)
    shares[inner] = subtree[inner] / family[parent[inner]]
    return shares


class SiblingAdjustment(nn.Module):
    """Adjust logits whose softmax over the leaves is what a network says; see the module."""

    def __init__(self, hierarchy: Hierarchy, pixels: np.ndarray, tau: float):
        """
        Args:
            hierarchy: the tree.
            pixels: (N,), of the training set, labelled with each node itself.
            tau: the power, 0 or more; 0 changes nothing, 1 undoes the training set's frequencies.

        Raises:
            ValueError: tau is negative or not finite.
        """
        super().__init__()
        if not 0 <= tau < np.inf:
            raise ValueError(f"tau is {tau}; it must be 0 or more")
        leaves = hierarchy.num_leaves
        log_weights = -tau * np.log(sibling_shares(pixels, hierarchy))
        below = hierarchy.ancestor_matrix[:leaves].astype(bool)  # [leaf, node]
        child_weights = np.zeros((hierarchy.num_nodes - leaves, leaves))
        for node in np.flatnonzero(hierarchy.parent >= 0):
            child_weights[hierarchy.parent[node] - leaves, below[:, node]] = np.exp(
                log_weights[node]
            )
        self.num_leaves = leaves
        for name, table in (
            ("leaf_weights", (below @ log_weights)[:, None, None]),
            ("below", below[:, leaves:].T),
            ("child_weights", child_weights),
        ):
            self.register_buffer(name, torch.from_numpy(table).float(), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """
        Args:
            logits: (B, N, h, w), of any float type.

        Returns:
            (B, N, h, w), float32 (float64 for float64 logits): log q of the leaves; the channels
            of inner nodes are passed on, nothing reads them in a softmax over leaves.
        """
        dtype = torch.promote_types(logits.dtype, torch.float32)
        log_p = logits[:, : self.num_leaves].to(dtype).log_softmax(1)
        p = log_p.exp().clamp(min=_LEAST)
        # Half precision has no number as small as the least probability: 0 / 0 would be NaN.
        with torch.autocast(logits.device.type, enabled=False):
            mass = torch.einsum("ul,blhw->buhw", self.below.to(dtype), p)
            weighted = torch.einsum("ul,blhw->buhw", self.child_weights.to(dtype), p)
            excess = torch.einsum("ul,buhw->blhw", self.below.to(dtype), (weighted / mass).log())
        log_q = log_p + self.leaf_weights.to(dtype) - excess
        return torch.cat([log_q, logits[:, self.num_leaves :].to(dtype)], 1)
