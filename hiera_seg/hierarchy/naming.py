"""Find nodes by name, and choose the names that tables show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy.inputs import SEPARATOR
from hiera_seg.hierarchy.messages import listing, suggestion

if TYPE_CHECKING:
    from hiera_seg.hierarchy.tree import Hierarchy


def walk(index_of: dict[tuple[int, str], int], path: str) -> int | None:
    """Return the node at a full path, which may begin with one "/"; None if there is none."""
    node: int | None = -1
    for part in path.removeprefix(SEPARATOR).split(SEPARATOR):
        node = index_of.get((node, part))
        if node is None:
            return None
    return node


def as_full_path(path: str) -> str:
    """Return a path with a "/" in it, such as "/car" for a top-level node."""
    return path if SEPARATOR in path else SEPARATOR + path


class NameIndex:
    """Find the nodes of a tree by name.

    Attributes:
        leaves: name -> ids of the leaves with this name.
        inner: name -> ids of the inner nodes with this name.
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
        """Return the id of a node given by full path, bare name (leaves first) or id."""
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
        """Return the id of a node of a level, given as in :meth:`find`."""
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
        raise HierarchyError(f"{node!r} is not {at}of {h!r}; the level has: {there}")

    def _checked_id(self, node: Any) -> int:
        total = self.hierarchy.num_nodes
        if isinstance(node, bool) or not hasattr(node, "__index__"):
            raise HierarchyError(f"expected the name or id of a node, not {node!r}")
        if not 0 <= node < total:
            raise HierarchyError(
                f"node id {node} is outside 0 .. {total - 1} of {self.hierarchy!r}"
            )
        return int(node)

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
            f"name {node!r} is ambiguous {at}in {self.hierarchy!r}; write one of the paths {paths}"
        )


def display_names(hierarchy: Hierarchy) -> tuple[str, ...]:
    """Return the shortest path suffix of each node that is unique among the nodes of its level.

    If no suffix is unique (leaves ``b`` and ``a/b``), the full path is returned.
    """
    names = list(hierarchy.node_names)
    for level in range(hierarchy.num_levels):
        namesakes: dict[str, list[int]] = {}
        for node in hierarchy.level_nodes(level).tolist():
            namesakes.setdefault(hierarchy.node_names[node], []).append(node)
        for same in namesakes.values():
            for node, suffix in _distinct_suffixes(hierarchy, same).items():
                if hierarchy.node_level[node] == level:
                    names[node] = suffix
    return tuple(names)


def _distinct_suffixes(hierarchy: Hierarchy, nodes: list[int]) -> dict[int, str]:
    """Return path suffixes of nodes with the same name, as long as needed to differ."""
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
