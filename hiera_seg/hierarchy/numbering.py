"""Assign node ids: leaves first in `leaf_order`, then inner nodes from the finest level up."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from hiera_seg.hierarchy.inputs import SEPARATOR, FlatTree, Scalar, view_list
from hiera_seg.hierarchy.messages import fail, listing, suggestion
from hiera_seg.hierarchy.naming import as_full_path, walk

_LEVEL_NAME = re.compile(r"[A-Za-z0-9_]+")


def number_nodes(
    flat: FlatTree, leaf_order: Iterable[Any] | None
) -> tuple[tuple[str, ...], np.ndarray, int]:
    """Number the nodes: leaves first, then inner nodes from the finest level to the coarsest.

    Returns:
        Names of the nodes by id, int64 array (N,) of parent ids (-1 at the top), and the number
        of levels.

    Raises:
        HierarchyError: the leaf order is not a permutation of the leaves, or there is no node.
    """
    if not flat.names:
        flat.fail("the tree is empty; it needs at least one node")
    parent = np.asarray(flat.parents, dtype=np.int64)
    depth = depths(parent)
    is_leaf = ~np.isin(np.arange(len(parent)), parent)
    leaves = np.flatnonzero(is_leaf).tolist()
    if leaf_order is not None:
        leaves = _ordered_leaves(flat, leaves, leaf_order)
    inner = np.flatnonzero(~is_leaf)
    first_leaf = first_leaves(parent, depth, leaves)[inner]
    by_id = [*leaves, *inner[np.lexsort((first_leaf, -depth[inner]))].tolist()]

    id_of = np.empty(len(parent) + 1, dtype=np.int64)
    id_of[[*by_id, -1]] = [*range(len(parent)), -1]  # the virtual root keeps -1
    names = tuple(flat.names[index] for index in by_id)
    return names, id_of[parent[by_id]], int(depth.max()) + 1


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


def subtree_sums(parent: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (N,): the sum of `values` (N,) over each node and all of its descendants."""
    sums = np.array(values)
    for nodes in reversed(nodes_by_depth(depth)[1:]):
        np.add.at(sums, parent[nodes], sums[nodes])
    return sums


def ancestor_matrix(parent: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return bool (N, N): [v, u] is True where u is v or an ancestor of v."""
    matrix = np.eye(len(parent), dtype=bool)
    for nodes in nodes_by_depth(depth)[1:]:
        matrix[nodes] |= matrix[parent[nodes]]
    return matrix


def distance_matrix(parent: np.ndarray, depth: np.ndarray, ancestors: np.ndarray) -> np.ndarray:
    """Return int16 (N, N): edges between two nodes; `ancestors` is their ancestor matrix."""
    below = ancestors.T  # [v, u]: u is in the subtree of v
    matrix = np.empty(below.shape, np.int16)
    for level, nodes in enumerate(nodes_by_depth(depth)):
        # A child is one edge nearer to the nodes of its own subtree than its parent is, and one
        # edge farther from all others.
        above = matrix[parent[nodes]] if level else (depth + 1).astype(np.int16)
        matrix[nodes] = above + np.int16(1) - np.int16(2) * below[nodes]
    return matrix


def first_leaves(parent: np.ndarray, depth: np.ndarray, leaves: Any) -> np.ndarray:
    """Return (N,): for each node the smallest position in `leaves` of a leaf below it."""
    first = np.full(len(parent) + 1, len(parent))  # the last entry is the virtual root's
    first[leaves] = np.arange(len(leaves))
    for nodes in reversed(nodes_by_depth(depth)):
        np.minimum.at(first, parent[nodes], first[nodes])
    return first[:-1]


def _ordered_leaves(flat: FlatTree, leaves: list[int], leaf_order: Any) -> list[int]:
    """Return the leaves in the given order; the error lists unknown, repeated and missing ones."""
    by_name: dict[str, list[int]] = {}
    for leaf in leaves:
        by_name.setdefault(flat.names[leaf], []).append(leaf)
    by_parent = {(flat.parents[i], flat.names[i]): i for i in range(len(flat.names))}
    is_leaf = set(leaves)

    def label(leaf: int) -> str:
        name = flat.names[leaf]
        return name if len(by_name[name]) == 1 else as_full_path(flat.path(leaf))

    found: dict[int, None] = {}
    wrong: dict[str, list[Scalar]] = {"not a leaf": [], "repeated": [], "unknown": []}
    listed, line = view_list(leaf_order, "leaf_order", flat.origin)
    for scalar in listed:
        name = scalar.value
        same = by_name.get(name, [])
        if len(same) > 1:
            flat.fail(
                f"leaf_order: {len(same)} leaves have the name {name!r}; write one of the paths"
                f" {listing(label(leaf) for leaf in same)}",
                scalar.line,
            )
        index = walk(by_parent, name) if SEPARATOR in name else same[0] if same else None
        if index in found:
            wrong["repeated"].append(scalar)
        elif index in is_leaf:
            found[index] = None
        else:
            is_group = index is not None or name in flat.names
            wrong["not a leaf" if is_group else "unknown"].append(scalar)

    problems = [f"{what}: {listing(s.value for s in some)}" for what, some in wrong.items() if some]
    if wrong["unknown"]:
        problems[-1] += suggestion(wrong["unknown"][0].value, map(label, leaves))
    if missing := [label(leaf) for leaf in leaves if leaf not in found]:
        problems.append(f"missing: {listing(missing)}")
    if problems:
        line = next((scalar.line for some in wrong.values() for scalar in some), line)
        flat.fail(f"leaf_order must hold every leaf exactly once; {'; '.join(problems)}", line)
    return list(found)


def check_levels(levels: Any, num_levels: int, origin: str = "") -> tuple[str, ...]:
    """Return the level names, coarse to fine; None gives level_0, level_1, ...

    Raises:
        HierarchyError: their number is not the depth, they repeat, or they cannot be part of
            metric keys.
    """
    if levels is None:
        return tuple(f"level_{level}" for level in range(num_levels))
    names: dict[str, int | None] = {}
    listed, line = view_list(levels, "levels", origin)
    for scalar in listed:
        if not _LEVEL_NAME.fullmatch(scalar.value):
            fail(
                f"level name {scalar.value!r} cannot be part of a metric key; use A-Z, a-z, 0-9"
                " and _ only",
                origin,
                scalar.line,
            )
        if scalar.value in names:
            fail(f"level name {scalar.value!r} is repeated; rename one", origin, scalar.line)
        names[scalar.value] = scalar.line
    if len(names) != num_levels:
        fail(
            f"{len(names)} level names {listing(names)} for {num_levels} levels of the tree;"
            " give one name per level, coarse to fine",
            origin,
            line,
        )
    return tuple(str.__str__(name) for name in names)  # plain strings, also from numpy
