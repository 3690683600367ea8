"""Node ids: the numbering rule of the house, leaf orders and level names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from .errors import HierarchyError, fail, listing, suggestion
from .inputs import SEPARATOR, FlatTree, Scalar, not_a_string, view

LEVEL_NAME = re.compile(r"[A-Za-z0-9_]+", re.ASCII)


def number_nodes(
    flat: FlatTree, leaf_order: Iterable[Any] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Numbers the nodes: leaves first, then inner nodes from the finest level to the coarsest.

    Args:
        flat: The nodes in order of appearance.
        leaf_order: Leaf names (full paths where a bare name is not unique) in the order they are
            to have; None for the order of appearance.

    Returns:
        Names of the nodes by id, and an int64 array (N,) of parent ids, -1 at the top.
    """
    total = len(flat.names)
    children: list[list[int]] = [[] for _ in range(total)]
    order = []  # parents before their children
    for index, parent in enumerate(flat.parents):
        (order if parent < 0 else children[parent]).append(index)
    depth = [0] * total
    for index in order:  # grows while it is walked: breadth first
        for child in children[index]:
            depth[child] = depth[index] + 1
        order.extend(children[index])

    leaves = [index for index in range(total) if not children[index]]
    if leaf_order is not None:
        leaves = _resolve_leaf_order(flat, leaves, leaf_order)
    first_leaf = [total] * total
    for position, leaf in enumerate(leaves):
        first_leaf[leaf] = position
    for index in reversed(order):
        parent = flat.parents[index]
        if parent >= 0:
            first_leaf[parent] = min(first_leaf[parent], first_leaf[index])
    inner = [index for index in range(total) if children[index]]
    inner.sort(key=lambda index: (-depth[index], first_leaf[index]))

    by_id = leaves + inner
    id_of = np.empty(total, dtype=np.int64)
    id_of[by_id] = np.arange(total)
    parents = np.asarray(flat.parents, dtype=np.int64)[by_id]
    parents = np.where(parents >= 0, id_of[parents], -1)
    return tuple(flat.names[index] for index in by_id), parents


def _resolve_leaf_order(flat: FlatTree, leaves: list[int], leaf_order: Iterable[Any]) -> list[int]:
    """Returns the leaves in the given order; the error lists what is unknown, twice or missing."""
    ordered = view(leaf_order if isinstance(leaf_order, (str, dict)) else _listed(leaf_order))
    if not hasattr(ordered, "items") or isinstance(leaf_order, dict):
        fail("leaf_order must be a list of leaf names", flat.origin, ordered.line)
    by_name: dict[str, list[int]] = {}
    for leaf in leaves:
        by_name.setdefault(flat.names[leaf], []).append(leaf)
    index_of = {(flat.parents[i], flat.names[i]): i for i in range(len(flat.names))}
    is_leaf = set(leaves)

    found: dict[int, None] = {}
    unknown: list[Scalar] = []
    twice: list[Scalar] = []
    for entry in ordered.items:
        scalar = view(entry)
        if not isinstance(scalar, Scalar):
            fail("leaf_order must be a list of leaf names", flat.origin, scalar.line)
        if not isinstance(scalar.value, str):
            fail(f"leaf_order: {not_a_string(scalar)}", flat.origin, scalar.line)
        index = _find_leaf(flat, by_name, index_of, scalar)
        if index is None or index not in is_leaf:
            unknown.append(scalar)
        elif index in found:
            twice.append(scalar)
        else:
            found[index] = None
    problems = []
    if unknown:
        known = [*by_name, *(flat.path(i) for same in by_name.values() if len(same) > 1 for i in same)]
        problems.append(
            f"not a leaf: {listing(s.value for s in unknown)}{suggestion(unknown[0].value, known)}"
        )
    if twice:
        problems.append(f"twice: {listing(s.value for s in twice)}")
    missing = [leaf_label(flat, by_name, leaf) for leaf in leaves if leaf not in found]
    if missing:
        problems.append(f"missing: {listing(missing)}")
    if problems:
        line = (unknown or twice or [Scalar(None, None, ordered.line)])[0].line
        fail(
            "leaf_order must hold each leaf exactly once; " + "; ".join(problems), flat.origin, line
        )
    return list(found)


def _listed(values: Iterable[Any]) -> Any:
    if hasattr(values, "items") or isinstance(values, Scalar):
        return values
    try:
        return list(values)
    except TypeError:
        return values


def _find_leaf(
    flat: FlatTree,
    by_name: dict[str, list[int]],
    index_of: dict[tuple[int, str], int],
    scalar: Scalar,
) -> int | None:
    name = scalar.value
    if SEPARATOR in name:
        return walk(index_of, name)
    same = by_name.get(name, [])
    if len(same) > 1:
        paths = listing(leaf_label(flat, by_name, leaf) for leaf in same)
        fail(
            f"leaf_order: {name!r} is the name of {len(same)} leaves: write the path, one of {paths}",
            flat.origin,
            scalar.line,
        )
    return same[0] if same else None


def walk(index_of: dict[tuple[int, str], int], path: str) -> int | None:
    """Follows a full path down from the top; one "/" before it is allowed."""
    node: int | None = -1
    for part in path.removeprefix(SEPARATOR).split(SEPARATOR):
        node = index_of.get((node, part))
        if node is None:
            return None
    return node


def leaf_label(flat: FlatTree, by_name: dict[str, list[int]], leaf: int) -> str:
    """Returns the shortest spelling that means this leaf: its bare name, else its path."""
    if len(by_name[flat.names[leaf]]) == 1:
        return flat.names[leaf]
    path = flat.path(leaf)
    return path if SEPARATOR in path else SEPARATOR + path


def check_levels(levels: Any, num_levels: int, origin: str = "") -> tuple[str, ...]:
    """Returns the level names, coarse to fine; None gives level_0, level_1, ..."""
    if levels is None:
        return tuple(f"level_{level}" for level in range(num_levels))
    listed = view(levels if isinstance(levels, (str, dict)) else _listed(levels))
    if isinstance(levels, dict) or not hasattr(listed, "items"):
        fail("levels must be a list of names, coarse to fine", origin, listed.line)
    names: dict[str, None] = {}
    for entry in listed.items:
        scalar = view(entry)
        if not isinstance(scalar, Scalar):
            fail("levels must be a list of names, coarse to fine", origin, scalar.line)
        if not isinstance(scalar.value, str):
            fail(f"levels: {not_a_string(scalar)}", origin, scalar.line)
        if not LEVEL_NAME.fullmatch(scalar.value):
            fail(
                f"level name {scalar.value!r} must be letters A-Z a-z, digits and _ only"
                " (metric keys are made of it)",
                origin,
                scalar.line,
            )
        if scalar.value in names:
            fail(f"level name {scalar.value!r} is there twice", origin, scalar.line)
        names[scalar.value] = None
    if len(names) != num_levels:
        fail(
            f"{len(names)} level names ({listing(names)}) for a tree of {num_levels} levels:"
            " give one name per level, coarse to fine",
            origin,
            listed.line,
        )
    for level in names:
        if f"direct_{level}" in names:
            raise HierarchyError(
                f"level names {level!r} and 'direct_{level}' would share the metric key"
                f" mIoU_direct_{level}: rename one"
            )
    return tuple(names)
