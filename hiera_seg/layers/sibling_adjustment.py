"""Adjust logits for class frequencies among siblings.

A softmax trained mostly on road pixels predicts "road" where it is uncertain. Logit adjustment
(Menon et al., *Long-tail learning via logit adjustment*, ICLR 2021, sec. 4.1) divides the
probability of each class by its frequency to a power tau. Rare classes then gain from all others,
and if frequencies differ by a factor of thousands, a rare leaf can win half the image. In a tree
the adjustment can be limited to siblings. With ``p(v | parent)`` the probability of a node among
its siblings and ``f(v)`` its share of the pixels of its family in the training set,

    q(v | parent) = p(v | parent) f(v)^-tau / (sum of the same over v and its siblings)

and the probability of a leaf is the product along its path. The probabilities of top-level nodes do
not change, and neither does the sum over a family.

The softmaxes of a network with one softmax per level are adjusted separately. The nodes of a level
are treated as the leaves of a tree that ends there. A leaf above the last level has one logit for
several softmaxes, and keeps the adjustment of its own level at finer ones. There the probabilities
of the top level are preserved only as far as the softmaxes agree on the leaf's siblings.
"""

import numpy as np
import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.numbering import subtree_sums

_LEAST = 1e-30  # lower bound of probabilities, which keeps the sum of a family above 0


def sibling_shares(pixels: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
    """Compute the share of each node in the pixels of its family.

    Args:
        pixels: (N,), number of pixels labelled with each node itself.
        hierarchy: the tree.

    Returns:
        float64 (N,) in (0, 1], 1 for nodes at the top and for nodes without pixels: a share of
        nearly 0 would let classes win that no network has learnt.
    """
    parent = hierarchy.parent
    subtree = subtree_sums(parent, hierarchy.depth, np.asarray(pixels, np.float64))
    counted = (parent >= 0) & (subtree > 0)
    family = np.zeros(hierarchy.num_nodes)
    np.add.at(family, parent[counted], subtree[counted])
    shares = np.ones(hierarchy.num_nodes)
    shares[counted] = subtree[counted] / family[parent[counted]]
    return shares


class SiblingAdjustment(nn.Module):
    """Adjust logits of a network with a softmax over the leaves, or over each level."""

    def __init__(
        self, hierarchy: Hierarchy, pixels: np.ndarray, tau: float, *, by_level: bool = False
    ):
        """
        Args:
            hierarchy: the tree.
            pixels: (N,), number of training pixels labelled with each node itself.
            tau: the power, 0 or more; 0 changes nothing, 1 compensates the frequencies.
            by_level: whether there is one softmax per level instead of one over the leaves.

        Raises:
            ValueError: tau is negative or not finite.
        """
        super().__init__()
        if not 0 <= tau < np.inf:
            raise ValueError(f"tau is {tau}; it must be finite and 0 or more")
        log_weights = -tau * np.log(sibling_shares(pixels, hierarchy))
        members = [np.arange(hierarchy.num_leaves)]
        if by_level:  # the top level is not adjusted
            members = [hierarchy.level_nodes(level) for level in range(1, hierarchy.num_levels)]
        self.shifts = nn.ModuleList(_Shift(hierarchy, nodes, log_weights) for nodes in members)
        # The index of each node's shift, after a first shift of 0. A shallow leaf is in the softmax
        # of several levels but has one logit, which gets the shift of the first of them.
        shifted, first = np.unique(np.concatenate([[], *members]), return_index=True)
        place = np.zeros(hierarchy.num_nodes, np.int64)
        place[shifted.astype(np.int64)] = 1 + first
        self.register_buffer("place", torch.from_numpy(place), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """
        Args:
            logits: (B, N, h, w) float.

        Returns:
            (B, N, h, w), float32 (float64 for float64 logits): logits whose softmax is q
            (approximately at levels below a leaf's own). With a softmax over leaves, the logits of
            inner nodes are not used and do not change.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # In half precision the smallest probability would be 0, and 0 / 0 is NaN.
        with torch.autocast(logits.device.type, enabled=False):
            shifts = [torch.zeros_like(logits[:, :1]), *(shift(logits) for shift in self.shifts)]
            return logits + torch.cat(shifts, 1).index_select(1, self.place)


class _Shift(nn.Module):
    """Compute log q - log p of mutually exclusive nodes: the leaves, or those of a level."""

    def __init__(self, hierarchy: Hierarchy, nodes: np.ndarray, log_weights: np.ndarray):
        """
        Args:
            hierarchy: the tree.
            nodes: int64 (M,), ids; nodes below them are not used.
            log_weights: (N,), added to the log probability of each node in its family.
        """
        super().__init__()
        paths = hierarchy.ancestor_matrix[nodes]  # [member, node]: whether the node is on the path
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
        """Return shifts (B, M, h, w) for logits (B, N, h, w)."""
        below, child_weights, path_weights = (
            table.to(logits.dtype) for table in (self.below, self.child_weights, self.path_weights)
        )
        p = logits.index_select(1, self.nodes).softmax(1).clamp(min=_LEAST)
        mass = torch.einsum("um,bmhw->buhw", below, p)
        weighted = torch.einsum("um,bmhw->buhw", child_weights, p)
        return path_weights - torch.einsum("um,buhw->bmhw", below, (weighted / mass).log())
