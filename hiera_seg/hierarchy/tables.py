"""Compute the lookup tables of a numbered tree from its array of parents.

``parent`` is int64 (N,), -1 at the top; ``depth`` is int64 (N,), 0 at the top; the leaves are the
nodes ``0 .. num_leaves - 1``. No function is recursive, so trees may be of any depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def frozen(values: Any, dtype: Any = np.int64) -> np.ndarray:
    """Return the values as a read-only array, without a copy if they are an array of `dtype`."""
    array = np.ascontiguousarray(values, dtype=dtype)
    array.setflags(write=False)
    return array


def depths(parent: np.ndarray) -> np.ndarray:
    """Return the depth of every node, by pointer jumping: each round doubles the distance."""
    total = len(parent)  # index of the virtual root, its own parent
    jump = np.append(np.where(parent >= 0, parent, total), total)
    depth = np.append((parent >= 0).astype(np.int64), 0)
    while (jump != total).any():
        depth = depth + depth[jump]
        jump = jump[jump]
    return depth[:-1]


def nodes_by_depth(depth: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the ids at each depth, from the top down."""
    order = np.argsort(depth, kind="stable")
    return tuple(np.split(order, np.cumsum(np.bincount(depth))[:-1]))


def first_leaves(parent: np.ndarray, depth: np.ndarray, leaves: Any) -> np.ndarray:
    """Return (N,): for each node the smallest position in `leaves` of a leaf below it."""
    first = np.full(len(parent) + 1, len(parent))  # the last entry is the virtual root's
    first[leaves] = np.arange(len(leaves))
    for nodes in reversed(nodes_by_depth(depth)):
        np.minimum.at(first, parent[nodes], first[nodes])
    return first[:-1]


def children_lists(
    parent: np.ndarray, depth: np.ndarray, num_leaves: int
) -> tuple[tuple[int, ...], ...]:
    """Return the children of every node in the order of their first leaves.

    The last of the N + 1 entries, index -1, holds the top-level nodes.
    """
    first_leaf = first_leaves(parent, depth, np.arange(num_leaves))
    children: list[list[int]] = [[] for _ in range(len(parent) + 1)]
    above = parent.tolist()
    for node in np.argsort(first_leaf, kind="stable").tolist():
        children[above[node]].append(node)
    return tuple(tuple(row) for row in children)


def depth_first(children: tuple[tuple[int, ...], ...]) -> list[int]:
    """Return all nodes, each followed by its descendants; `children` as of `children_lists`."""
    order, stack = [], list(children[-1][::-1])
    while stack:
        order.append(stack.pop())
        stack.extend(children[order[-1]][::-1])
    return order


def level_slices(
    depth: np.ndarray, num_leaves: int, num_levels: int
) -> tuple[tuple[int, int], ...]:
    """Return (start, stop) of the ids of each level's inner nodes; the last is (0, L)."""
    counts = np.bincount(depth[num_leaves:], minlength=num_levels - 1)
    stops = num_leaves + np.cumsum(counts[::-1])[::-1]  # the finest inner level comes first
    inner = ((int(stop - count), int(stop)) for stop, count in zip(stops, counts, strict=True))
    return (*inner, (0, num_leaves))


def leaf_ancestors(
    parent: np.ndarray, depth: np.ndarray, num_leaves: int, level: int
) -> np.ndarray:
    """Return (L,): each leaf's ancestor at depth `level`, or the leaf itself if it is above."""
    node = np.arange(num_leaves)
    while (deeper := depth[node] > level).any():
        node = np.where(deeper, parent[node], node)
    return node


def level_ancestors(
    parent: np.ndarray, depth: np.ndarray, num_leaves: int, num_levels: int
) -> np.ndarray:
    """Return (num_levels, N): the node that represents node v at level l, or -1."""
    table = np.empty((num_levels, len(parent)), dtype=np.int64)
    node = np.arange(len(parent))
    is_leaf = node < num_leaves
    for level in reversed(range(num_levels)):
        node = np.where(depth[node] > level, parent[node], node)
        table[level] = np.where(is_leaf | (depth >= level), node, -1)
    return table


def ancestor_matrix(parent: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return bool (N, N): [v, u] is True where u is v or an ancestor of v."""
    matrix = np.eye(len(parent), dtype=bool)
    for nodes in nodes_by_depth(depth)[1:]:
        matrix[nodes] |= matrix[parent[nodes]]
    return matrix


def distance_matrix(parent: np.ndarray, depth: np.ndarray, ancestors: np.ndarray) -> np.ndarray:
    """Return int16 (N, N): edges between two nodes, top-level nodes being 2 apart.

    int32 for trees of more than 16383 levels, for which int16 would overflow.
    """
    dtype = np.int16 if 2 * (int(depth.max()) + 1) <= np.iinfo(np.int16).max else np.int32
    below = ancestors.T  # [v, u]: u is in the subtree of v
    matrix = np.empty(ancestors.shape, dtype=dtype)
    for level, nodes in enumerate(nodes_by_depth(depth)):
        # A child is one edge nearer to the nodes of its own subtree than its parent is, and one
        # edge farther from all others.
        above = matrix[parent[nodes]] if level else (depth + 1).astype(dtype)[None]
        matrix[nodes] = above + dtype(1) - dtype(2) * below[nodes]
    return matrix
