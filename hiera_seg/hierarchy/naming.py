"""Names of nodes: from a name to an id, and the names that tables show."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NoReturn

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy.inputs import SEPARATOR
from hiera_seg.hierarchy.messages import listing, suggestion

if TYPE_CHECKING:
    from hiera_seg.hierarchy.tree import Hierarchy


def walk(index_of: dict[tuple[int, str], int], path: str) -> int | None:
    """Follows a full path down from the top; one "/" before it is allowed."""
    node: int | None = -1
    for part in path.removeprefix(SEPARATOR).split(SEPARATOR):
        node = index_of.get((node, part))
        if node is None:
            return None
    return node


def as_full_path(path: str) -> str:
    """Returns a path in the form that is read as one: "/car" for a top-level node."""
    return path if SEPARATOR in path else SEPARATOR + path


def level_index(hierarchy: Hierarchy, level: int | str) -> int:
    """Returns the index of a level given by name or by (negative) index."""
    total, names = hierarchy.num_levels, hierarchy.level_names
    if isinstance(level, str):
        if level in names:
            return names.index(level)
        raise HierarchyError(f"unknown level {level!r} of {hierarchy!r}; levels: {listing(names)}")
    try:
        index = operator.index(level)
    except TypeError:
        raise HierarchyError(f"a level is a name or an index, not {level!r}") from None
    if not -total <= index < total:
        raise HierarchyError(f"level {index} is outside {-total} .. {total - 1} of {hierarchy!r}")
    return index % total


class NameIndex:
    """Finds the nodes of one tree by name.

    Attributes:
        leaves: Name -> ids of the leaves that have it.
        inner: Name -> ids of the inner nodes that have it.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        self.leaves: dict[str, list[int]] = {}
        self.inner: dict[str, list[int]] = {}
        self._by_parent: dict[tuple[int, str], int] = {}
        parents = hierarchy.parent.tolist()
        for node, name in enumerate(hierarchy.node_names):
            half = self.leaves if node < hierarchy.num_leaves else self.inner
            half.setdefault(name, []).append(node)
            self._by_parent[parents[node], name] = node

    def find(self, node: int | str) -> int:
        """Returns the id of a full path, a bare name (the leaf first) or a checked id."""
        if not isinstance(node, str):
            return self._checked_id(node)
        if SEPARATOR in node:
            found = walk(self._by_parent, node)
            return self._unknown(node) if found is None else found
        leaves, inner = self.leaves.get(node, []), self.inner.get(node, [])
        for same in (leaves, inner):
            if len(same) == 1:
                return same[0]
        if not leaves and not inner:
            self._unknown(node)
        self._ambiguous(node, [*leaves, *inner], "")

    def find_at(self, node: int | str, level: int) -> int:
        """Returns the id of a node among those that stand at a level, by the same names."""
        h = self.hierarchy
        standing = h.level_nodes(level)
        at = f"at level {h.level_names[level]!r} "
        if isinstance(node, str) and SEPARATOR not in node:
            same = [*self.leaves.get(node, []), *self.inner.get(node, [])]
            if not same:
                self._unknown(node)
            same = [candidate for candidate in same if candidate in standing]
            if len(same) > 1:
                self._ambiguous(node, same, at)
            if same:
                return same[0]
        else:
            found = self.find(node)
            if found in standing:
                return found
        there = listing(h.paths[other] for other in standing.tolist())
        raise HierarchyError(f"{node!r} does not stand {at}of {h!r}; there stand: {there}")

    def _checked_id(self, node: Any) -> int:
        total = self.hierarchy.num_nodes
        try:
            index = operator.index(node)
        except TypeError:
            index = None
        if index is None or isinstance(node, bool):
            raise HierarchyError(f"a node is a name or an id, not {node!r}")
        if not 0 <= index < total:
            raise HierarchyError(
                f"node id {index} is outside 0 .. {total - 1} of {self.hierarchy!r}"
            )
        return index

    def _unknown(self, node: str) -> NoReturn:
        h = self.hierarchy
        if SEPARATOR in node:
            last = node.split(SEPARATOR)[-1]
            namesakes = [*self.leaves.get(last, []), *self.inner.get(last, [])]
            hint = suggestion(node, h.paths, [h.paths[other] for other in namesakes])
        else:
            hint = suggestion(node, h.node_names)
        raise HierarchyError(f"unknown name {node!r} in {h!r}{hint}")

    def _ambiguous(self, node: str, same: list[int], at: str) -> NoReturn:
        paths = listing(as_full_path(self.hierarchy.paths[other]) for other in same)
        raise HierarchyError(
            f"name {node!r} is ambiguous {at}in {self.hierarchy!r}: write a path, one of {paths}"
        )


def display_names(hierarchy: Hierarchy, index: NameIndex) -> tuple[str, ...]:
    """Returns the shortest path suffix of each node that is unique among the nodes of its level.

    Where no suffix is (leaves ``b`` and ``a/b``), the full path, which then no other node shows.
    """
    names = list(hierarchy.node_names)
    for same in index.leaves.values():
        names_of = _distinct_suffixes(hierarchy, same)
        for node, suffix in names_of.items():
            names[node] = suffix
    for name, inner in index.inner.items():
        at_level: dict[int, list[int]] = {}
        for node in inner:
            at_level.setdefault(int(hierarchy.depth[node]), []).append(node)
        leaves = index.leaves.get(name, [])
        for level, same in at_level.items():
            beside = [leaf for leaf in leaves if hierarchy.depth[leaf] <= level]
            names_of = _distinct_suffixes(hierarchy, same + beside)
            for node in same:
                names[node] = names_of[node]
    return tuple(names)


def _distinct_suffixes(hierarchy: Hierarchy, nodes: list[int]) -> dict[int, str]:
    """Lengthens the names of nodes of one name upwards, one step a round, until none is shared."""
    suffix = {node: hierarchy.node_names[node] for node in nodes}
    above = {node: int(hierarchy.parent[node]) for node in nodes}
    while True:
        owners: dict[str, list[int]] = {}
        for node, text in suffix.items():
            owners.setdefault(text, []).append(node)
        shared = [node for same in owners.values() if len(same) > 1 for node in same]
        growing = [node for node in shared if above[node] >= 0]
        if not growing:
            return suffix
        for node in growing:
            suffix[node] = f"{hierarchy.node_names[above[node]]}{SEPARATOR}{suffix[node]}"
            above[node] = int(hierarchy.parent[above[node]])
