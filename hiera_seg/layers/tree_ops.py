"""Tensor operations that know a class tree: extremes along paths, sums over leaves and levels.

All take the node dimension as `dim`, work on any number of other dimensions, in any floating-point
dtype, on any device, and are differentiable. What they need of the tree is turned into index
tensors once per tree and device. Time and memory grow with the number of nodes, not with its
square.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy

NodeIds = slice | Tensor


class InnerLevel(NamedTuple):
    """The inner nodes of one depth and what lies directly below them.

    Attributes:
        nodes: their ids, one range.
        children: ids of all nodes one edge deeper that have a parent here, ascending.
        child_parent: int64 (number of children,), position of each child's parent in `nodes`.
        leaves: the children that are leaves, and None where there is none.
        leaf_parent: int64, position of each of these leaves' parents in `nodes`.
        inner_parent: int64, position of the parents of the children that are inner nodes.
        rounds: pairs of index tensors that halve [nodes, inner children, leaf children], a group
            for each node, until one item a group is left.
    """

    nodes: slice
    children: NodeIds
    child_parent: Tensor
    leaves: NodeIds | None
    leaf_parent: Tensor
    inner_parent: Tensor
    rounds: tuple[tuple[Tensor, Tensor], ...]


class TreeTables(NamedTuple):
    """A tree as index tensors on one device.

    Attributes:
        num_leaves: L.
        inner_levels: the inner nodes by depth, coarse to fine; none in a flat tree.
        leaf_parent: int64 (L,), position of each leaf's parent among the inner nodes (id - L);
            N - L for a leaf at the top.
        leaf_levels: int64 (num_levels, L), the node that stands for each leaf at each level.
    """

    num_leaves: int
    inner_levels: tuple[InnerLevel, ...]
    leaf_parent: Tensor
    leaf_levels: Tensor


def node_ids(ids: np.ndarray, device: torch.device) -> NodeIds:
    """Make an index of ascending node ids: a slice (a view, no copy) where they are one range."""
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) == 0 or ids[-1] - ids[0] + 1 == len(ids):
        first = int(ids[0]) if len(ids) else 0
        return slice(first, first + len(ids))
    return torch.tensor(ids, device=device)


def take_nodes(x: Tensor, nodes: NodeIds, dim: int) -> Tensor:
    """Select nodes made by `node_ids`; a view of `x` where they are one range."""
    if isinstance(nodes, slice):
        return x.narrow(dim, nodes.start, nodes.stop - nodes.start)
    return x.index_select(dim, nodes)


@lru_cache(maxsize=64)
def tree_tables(hierarchy: Hierarchy, device: torch.device) -> TreeTables:
    """The index tensors of a tree on a device; made once, then shared."""
    # Tables made in inference mode could not be saved for a later backward.
    with torch.inference_mode(False):
        leaves = hierarchy.num_leaves
        parent = hierarchy.parent
        inner_levels = tuple(
            _inner_level(hierarchy, depth, device) for depth in range(hierarchy.num_levels - 1)
        )
        leaf_parent = np.where(parent[:leaves] < 0, hierarchy.num_nodes, parent[:leaves]) - leaves
        return TreeTables(
            num_leaves=leaves,
            inner_levels=inner_levels,
            leaf_parent=torch.tensor(leaf_parent, device=device),
            leaf_levels=torch.tensor(hierarchy.level_ancestor[:, :leaves], device=device),
        )


def _inner_level(hierarchy: Hierarchy, depth: int, device: torch.device) -> InnerLevel:
    start, stop = hierarchy.level_slices[depth]
    children = np.flatnonzero(hierarchy.depth == depth + 1)
    is_leaf = children < hierarchy.num_leaves
    child_parent = hierarchy.parent[children] - start
    # In the order in which descendant_max lays the items out.
    owner = np.concatenate([np.arange(stop - start), child_parent[~is_leaf], child_parent[is_leaf]])
    return InnerLevel(
        nodes=slice(start, stop),
        children=node_ids(children, device),
        child_parent=torch.tensor(child_parent, device=device),
        leaves=node_ids(children[is_leaf], device) if is_leaf.any() else None,
        leaf_parent=torch.tensor(child_parent[is_leaf], device=device),
        inner_parent=torch.tensor(child_parent[~is_leaf], device=device),
        rounds=tuple(
            (torch.tensor(first, device=device), torch.tensor(second, device=device))
            for first, second in _halving_rounds(owner, stop - start)
        ),
    )


def _halving_rounds(owner: np.ndarray, num_groups: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of positions whose maxima halve every group, round by round, down to one item.

    A Python loop over maxima per group would be as long as the widest group; this is its
    logarithm, and needs no scatter operation (in beta, or without a deterministic CUDA version).
    """
    order = np.argsort(owner, kind="stable")
    cuts = np.cumsum(np.bincount(owner, minlength=num_groups))[:-1]
    groups = [group.tolist() for group in np.split(order, cuts)]
    rounds = []
    while any(len(group) > 1 for group in groups):
        first: list[int] = []
        second: list[int] = []
        halved = []
        for group in groups:
            half = (len(group) + 1) // 2
            left, right = group[:half], group[half:]
            halved.append(list(range(len(first), len(first) + half)))
            first += left
            second += right + left[len(right) :]  # an odd one out meets itself
        rounds.append((first, second))
        groups = halved
    return rounds


def _check_dim(x: Tensor, dim: int, size: int, hierarchy: Hierarchy, what: str) -> int:
    dim = dim % x.dim()
    if x.shape[dim] != size:
        raise ValueError(
            f"dimension {dim} of shape {tuple(x.shape)} should hold the {size} {what} of tree "
            f"{hierarchy.name!r}"
        )
    return dim


def descendant_max(x: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Maximum over each node's descendants, itself among them.

    Args:
        x: (..., N, ...) one value a node.
        hierarchy: the tree.
        dim: the dimension of the nodes.

    Returns:
        A new tensor of the same shape. Where values tie, any of them may get the gradient, in
        parts that sum to the whole.
    """
    dim = _check_dim(x, dim, hierarchy.num_nodes, hierarchy, "nodes")
    tables = tree_tables(hierarchy, x.device)
    maxima: list[Tensor] = []  # finest level first, as the nodes are numbered
    for level in reversed(tables.inner_levels):
        items = [take_nodes(x, level.nodes, dim)]
        if maxima:
            items.append(maxima[-1])
        if level.leaves is not None:
            items.append(take_nodes(x, level.leaves, dim))
        current = torch.cat(items, dim)
        for first, second in level.rounds:
            current = torch.maximum(
                current.index_select(dim, first), current.index_select(dim, second)
            )
        maxima.append(current)
    return torch.cat([x.narrow(dim, 0, tables.num_leaves), *maxima], dim)


def ancestor_min(x: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Minimum over each node's ancestors, itself among them.

    Args:
        x: (..., N, ...) one value a node.
        hierarchy: the tree.
        dim: the dimension of the nodes.

    Returns:
        A new tensor of the same shape. Where values tie, any of them may get the gradient, in
        parts that sum to the whole.
    """
    dim = _check_dim(x, dim, hierarchy.num_nodes, hierarchy, "nodes")
    tables = tree_tables(hierarchy, x.device)
    leaves = x.narrow(dim, 0, tables.num_leaves)
    minima: list[Tensor] = []
    for depth, level in enumerate(tables.inner_levels):
        own = take_nodes(x, level.nodes, dim)
        if depth:
            above = tables.inner_levels[depth - 1].inner_parent
            own = torch.minimum(own, minima[-1].index_select(dim, above))
        minima.append(own)
    if not minima:
        return leaves.clone()
    no_parent = torch.full_like(leaves.narrow(dim, 0, 1), torch.inf)  # above leaves at the top
    inner = minima[::-1]
    above = torch.cat([*inner, no_parent], dim).index_select(dim, tables.leaf_parent)
    return torch.cat([torch.minimum(leaves, above), *inner], dim)


def sum_over_leaves(leaf_values: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Sum over the leaves below each node (a leaf: its own value).

    Args:
        leaf_values: (..., L, ...) one value a leaf.
        hierarchy: the tree.
        dim: the dimension of the leaves.

    Returns:
        (..., N, ...).
    """
    dim = _check_dim(leaf_values, dim, hierarchy.num_leaves, hierarchy, "leaves")
    tables = tree_tables(hierarchy, leaf_values.device)
    sums: list[Tensor] = []
    for level in reversed(tables.inner_levels):
        shape = list(leaf_values.shape)
        shape[dim] = level.nodes.stop - level.nodes.start
        total = leaf_values.new_zeros(shape)
        if sums:
            total = total.index_add(dim, level.inner_parent, sums[-1])
        if level.leaves is not None:
            leaves = take_nodes(leaf_values, level.leaves, dim)
            total = total.index_add(dim, level.leaf_parent, leaves)
        sums.append(total)
    return torch.cat([leaf_values, *sums], dim)


def path_sum(node_values: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Sum over the levels of the value of each leaf's node at that level.

    A leaf above the deepest level stands for itself at every deeper one, so all leaves sum as
    many values.

    Args:
        node_values: (..., N, ...) one value a node.
        hierarchy: the tree.
        dim: the dimension of the nodes.

    Returns:
        (..., L, ...).
    """
    dim = _check_dim(node_values, dim, hierarchy.num_nodes, hierarchy, "nodes")
    tables = tree_tables(hierarchy, node_values.device)
    total = node_values.narrow(dim, 0, tables.num_leaves)
    if hierarchy.num_levels == 1:
        return total.clone()
    for nodes in tables.leaf_levels[:-1]:
        total = total + node_values.index_select(dim, nodes)
    return total


def path_product(node_values: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Product over the levels of the value of each leaf's node at that level.

    Args:
        node_values: (..., N, ...) one value a node.
        hierarchy: the tree.
        dim: the dimension of the nodes.

    Returns:
        (..., L, ...).
    """
    dim = _check_dim(node_values, dim, hierarchy.num_nodes, hierarchy, "nodes")
    tables = tree_tables(hierarchy, node_values.device)
    total = node_values.narrow(dim, 0, tables.num_leaves)
    if hierarchy.num_levels == 1:
        return total.clone()
    for nodes in tables.leaf_levels[:-1]:
        total = total * node_values.index_select(dim, nodes)
    return total
