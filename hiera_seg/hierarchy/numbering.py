"""Assign node ids: leaves first in `leaf_order`, then inner nodes from the finest level up."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from hiera_seg.hierarchy import tables
from hiera_seg.hierarchy.inputs import SEPARATOR, FlatTree, Scalar, not_a_string, view_list
from hiera_seg.hierarchy.messages import fail, listing, suggestion
from hiera_seg.hierarchy.naming import as_full_path, walk

_LEVEL_NAME = re.compile(r"[A-Za-z0-9_]+")


def number_nodes(
    flat: FlatTree, leaf_order: Iterable[Any] | None
) -> tuple[tuple[str, ...], np.ndarray, int]:
    """Number the nodes: leaves first, then inner nodes from the finest level to the coarsest.

    Args:
        flat: the nodes in order of appearance.
        leaf_order: leaf names (full paths where a bare name is not unique) in the order of their
            ids; None means the order of appearance.

    Returns:
        Names of the nodes by id, int64 array (N,) of parent ids (-1 at the top), and the number
        of levels.

    Raises:
        HierarchyError: the leaf order is not a permutation of the leaves.
    """
    parent = np.asarray(flat.parents, dtype=np.int64)
    depth = tables.depths(parent)
    is_leaf = ~np.isin(np.arange(len(parent)), parent)
    leaves = np.flatnonzero(is_leaf).tolist()
    if leaf_order is not None:
        leaves = _ordered_leaves(flat, leaves, leaf_order)
    inner = np.flatnonzero(~is_leaf)
    first_leaf = tables.first_leaves(parent, depth, leaves)[inner]
    by_id = [*leaves, *inner[np.lexsort((first_leaf, -depth[inner]))].tolist()]

    id_of = np.empty(len(parent) + 1, dtype=np.int64)
    id_of[[*by_id, -1]] = [*range(len(parent)), -1]  # the virtual root keeps -1
    names = tuple(flat.names[index] for index in by_id)
    return names, id_of[parent[by_id]], int(depth.max()) + 1


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
    groups: list[Scalar] = []
    unknown: list[Scalar] = []
    twice: list[Scalar] = []
    listed, list_line = view_list(
        leaf_order, "leaf_order must be a list of leaf names", flat.origin
    )
    for scalar in listed:
        if not isinstance(scalar.value, str):
            fail(f"leaf_order: {not_a_string(scalar)}", flat.origin, scalar.line)
        name = scalar.value
        same = by_name.get(name, [])
        if len(same) > 1:
            fail(
                f"leaf_order: {len(same)} leaves have the name {name!r}; write one of the paths"
                f" {listing(label(leaf) for leaf in same)}",
                flat.origin,
                scalar.line,
            )
        index = walk(by_parent, name) if SEPARATOR in name else same[0] if same else None
        if index in found:
            twice.append(scalar)
        elif index in is_leaf:
            found[index] = None
        else:
            is_group = index is not None or name in flat.names
            (groups if is_group else unknown).append(scalar)

    missing = [label(leaf) for leaf in leaves if leaf not in found]
    problems = [
        f"{what}: {listing(scalar.value for scalar in wrong)}"
        for what, wrong in (("not a leaf", groups), ("unknown", unknown), ("repeated", twice))
        if wrong
    ]
    if unknown:
        problems[-1 - bool(twice)] += suggestion(unknown[0].value, map(label, leaves))
    if missing:
        problems.append(f"missing: {listing(missing)}")
    if problems:
        line = next((s.line for s in (*groups, *unknown, *twice)), list_line)
        what = "leaf_order must hold every leaf exactly once; "
        fail(what + "; ".join(problems), flat.origin, line)
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
    listed, line = view_list(levels, "levels must be a list of names, coarse to fine", origin)
    for scalar in listed:
        if not isinstance(scalar.value, str):
            fail(f"levels: {not_a_string(scalar)}", origin, scalar.line)
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
    for name in names:
        if f"direct_{name}" in names:
            fail(
                f"level names {name!r} and 'direct_{name}' have the same metric key"
                f" 'mIoU_direct_{name}'; rename one",
                origin,
                names[f"direct_{name}"],
            )
    return tuple(str.__str__(name) for name in names)  # plain strings, also from numpy
