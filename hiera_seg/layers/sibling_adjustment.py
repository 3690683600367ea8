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

A network with a softmax a level says p at each of them anew: each is adjusted by itself, its nodes
taken for the leaves of a tree that ends there.
"""

import numpy as np
import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy

_LEAST = 1e-30  # of a node's probability, so that an improbable family still divides by something


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
    """Adjust logits whose softmax, over the leaves or a level, is what a network says."""

    def __init__(
        self, hierarchy: Hierarchy, pixels: np.ndarray, tau: float, *, by_level: bool = False
    ):
        """
        Args:
            hierarchy: the tree.
            pixels: (N,), of the training set, labelled with each node itself.
            tau: the power, 0 or more; 0 changes nothing, 1 undoes the training set's frequencies.
            by_level: whether there is a softmax a level, in place of one over the leaves.

        Raises:
            ValueError: tau is negative or not finite.
        """
        super().__init__()
        if not 0 <= tau < np.inf:
            raise ValueError(f"tau is {tau}; it must be 0 or more")
        log_weights = -tau * np.log(sibling_shares(pixels, hierarchy))
        members = [np.arange(hierarchy.num_leaves)]
        if by_level:  # the top level keeps what the network says
            members = [hierarchy.level_nodes(level) for level in range(1, hierarchy.num_levels)]
        self.shifts = nn.ModuleList(_Shift(hierarchy, nodes, log_weights) for nodes in members)
        # Where each node's shift stands behind a first one of 0. A shallow leaf is in the softmax
        # of several levels; it has one logit, and the shift of the first of them.
        shifted, first = np.unique(np.concatenate([[], *members]), return_index=True)
        place = np.zeros(hierarchy.num_nodes, np.int64)
        place[shifted.astype(np.int64)] = 1 + first
        self.register_buffer("place", torch.from_numpy(place), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """
        Args:
            logits: (B, N, h, w), of any float type.

        Returns:
            (B, N, h, w), float32 (float64 for float64 logits): logits whose softmax is q; of a
            softmax over leaves, those of inner nodes are passed on, nothing reads them.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # Half precision has no number as small as the least probability: 0 / 0 would be NaN.
        with torch.autocast(logits.device.type, enabled=False):
            shifts = [torch.zeros_like(logits[:, :1]), *(shift(logits) for shift in self.shifts)]
            return logits + torch.cat(shifts, 1).index_select(1, self.place)


class _Shift(nn.Module):
    """log q - log p of nodes of which each pixel has one: the leaves, or those of a level."""

    def __init__(self, hierarchy: Hierarchy, nodes: np.ndarray, log_weights: np.ndarray):
        """
        Args:
            hierarchy: the tree.
            nodes: int64 (M,), below which nothing is looked at.
            log_weights: (N,), added to the logarithm of each node's probability in its family.
        """
        super().__init__()
        paths = hierarchy.ancestor_matrix[nodes]  # [member, node]: whether it is on its path
        above = np.setdiff1d(np.flatnonzero(paths.any(0)), nodes)
        row = {node: place for place, node in enumerate(above)}
        child_weights = np.zeros((len(above), len(nodes)))
        for node in np.flatnonzero(paths.any(0) & (hierarchy.parent >= 0)):
            child_weights[row[hierarchy.parent[node]], paths[:, node]] = np.exp(log_weights[node])
        self.register_buffer("nodes", torch.tensor(nodes), persistent=False)
        for name, table in (
            ("path_weights", (paths @ log_weights)[:, None, None]),
            ("below", paths[:, above].T),
            ("child_weights", child_weights),
        ):
            self.register_buffer(name, torch.from_numpy(table).float(), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, N, h, w) logits to (B, M, h, w) shifts."""
        below, child_weights, path_weights = (
            table.to(logits.dtype) for table in (self.below, self.child_weights, self.path_weights)
        )
        p = logits.index_select(1, self.nodes).softmax(1).clamp(min=_LEAST)
        mass = torch.einsum("um,bmhw->buhw", below, p)
        weighted = torch.einsum("um,bmhw->buhw", child_weights, p)
        return path_weights - torch.einsum("um,buhw->bmhw", below, (weighted / mass).log())
