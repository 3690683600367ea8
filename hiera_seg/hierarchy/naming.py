"""Find nodes by name, and choose the names that tables show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    """Find the nodes of a tree by name."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        self._by_name: dict[str, list[int]] = {}  # ids ascending, so that leaves are first
        self._by_parent: dict[tuple[int, str], int] = {}
        parents = hierarchy.parent.tolist()
        for node, name in enumerate(hierarchy.node_names):
            self._by_name.setdefault(name, []).append(node)
            self._by_parent[parents[node], name] = node

    def find(self, node: int | str, level: int | None = None) -> int:
        """Return the id of a node given by full path, bare name (leaves first) or id.

        Args:
            node: as in ``Hierarchy.id``.
            level: restrict the search to the nodes of this level.
        """
        h, at = self.hierarchy, ""
        if not isinstance(node, str):
            same = [self._checked_id(node)]
        elif SEPARATOR in node:
            found = walk(self._by_parent, node)
            same = [] if found is None else [found]
        else:
            same = self._by_name.get(node, [])
        if not same:
            raise HierarchyError(f"unknown name {node!r} in {h!r}{self._suggestion(node)}")
        if level is None:
            leaves = [candidate for candidate in same if candidate < h.num_leaves]
            inner = same[len(leaves) :]
            same = next((half for half in (leaves, inner) if len(half) == 1), same)
        else:
            at, standing = f"at level {h.level_names[level]!r} ", h.level_nodes(level).tolist()
            same = [candidate for candidate in same if candidate in standing]
            if not same:
                there = listing(h.paths[other] for other in standing)
                raise HierarchyError(f"{node!r} is not {at}of {h!r}; the level has: {there}")
        if len(same) > 1:
            paths = listing(as_full_path(h.paths[other]) for other in same)
            raise HierarchyError(
                f"name {node!r} is ambiguous {at}in {h!r}; write one of the paths {paths}"
            )
        return same[0]

    def _checked_id(self, node: Any) -> int:
        total = self.hierarchy.num_nodes
        if isinstance(node, bool) or not hasattr(node, "__index__"):
            raise HierarchyError(f"expected the name or id of a node, not {node!r}")
        if not 0 <= node < total:
            raise HierarchyError(
                f"node id {node} is outside 0 .. {total - 1} of {self.hierarchy!r}"
            )
        return int(node)

    def _suggestion(self, node: str) -> str:
        h = self.hierarchy
        if SEPARATOR not in node:
            return suggestion(node, h.node_names)
        namesakes = self._by_name.get(node.split(SEPARATOR)[-1], [])
        return suggestion(node, h.paths, [h.paths[other] for other in namesakes])


def display_names(hierarchy: Hierarchy) -> tuple[str, ...]:
    """Return the shortest path suffix of each node that is unique among the nodes of its level.

    If no suffix is unique (leaves ``b`` and ``a/b``), the full path is returned.
    """
    names = list(hierarchy.node_names)
    for level in range(hierarchy.num_levels):  # the last level of a leaf decides
        namesakes: dict[str, list[int]] = {}
        for node in hierarchy.level_nodes(level).tolist():
            namesakes.setdefault(hierarchy.node_names[node], []).append(node)
        for same in namesakes.values():
            for node, suffix in _distinct_suffixes(hierarchy, same).items():
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
