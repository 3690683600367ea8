"""Define ``Hierarchy``, the immutable class tree that the rest of the package reads."""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hiera_seg.disk import replace_text
from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import files, numbering
from hiera_seg.hierarchy.inputs import (
    SEPARATOR,
    FlatTree,
    flat_from_parents,
    flat_from_paths,
    flat_from_tree,
)
from hiera_seg.hierarchy.messages import listing
from hiera_seg.hierarchy.naming import NameIndex, as_full_path, display_names
from hiera_seg.hierarchy.writing import draw, nested, yaml_text


@dataclass(frozen=True, eq=False, repr=False)
class Hierarchy:
    """An immutable tree of classes, made by ``load`` or one of the ``from_...`` methods.

    Node ids: leaves first, ``0 .. L-1``, in ``leaf_order``; then inner nodes from the finest level
    to the coarsest, each level in the order of its nodes' first leaves. The virtual root above the
    top-level nodes has no id; as a parent it is -1.

    A leaf above the deepest level represents itself at every deeper level.

    Attributes:
        name: name of the tree, which is ignored in comparisons.
        node_names: bare names of the nodes (N,), by id.
        parent: int64 array (N,), -1 at the top.
        level_names: names of the levels, coarse to fine.
    """

    name: str
    node_names: tuple[str, ...]
    parent: np.ndarray
    level_names: tuple[str, ...]

    # -- construction ------------------------------------------------------------------------

    def __post_init__(self) -> None:
        self.parent.setflags(write=False)

    @classmethod
    def _from_flat(cls, flat: FlatTree, name: Any, levels: Any, leaf_order: Any) -> Hierarchy:
        node_names, parent, num_levels = numbering.number_nodes(flat, leaf_order)
        return cls(
            name, node_names, parent, numbering.check_levels(levels, num_levels, flat.origin)
        )

    @classmethod
    def from_dict(
        cls,
        tree: Any,
        *,
        name: str = "",
        levels: Iterable[str] | None = None,
        leaf_order: Iterable[str] | None = None,
    ) -> Hierarchy:
        """Read nested dicts and lists.

        Args:
            tree: a dict of name -> children, or a list. A node whose children are None is a leaf;
                strings in a list are leaves, dicts in a list are groups.
            name: name of the tree.
            levels: level names, coarse to fine; default ``level_0``, ``level_1``, ...
            leaf_order: leaf names in the order of their ids (full paths where names repeat);
                default: order of appearance.

        Raises:
            HierarchyError: the tree is invalid; the message names the node.
        """
        # A dict with "tree" alone may be a tree whose only top-level node has this name.
        if isinstance(tree, dict) and {"tree"} < set(tree) <= set(files.FILE_KEYS):
            raise HierarchyError(
                "this dict holds the tree, its name, levels and leaf order; write from_dict(**data)"
            )
        return cls._from_flat(flat_from_tree(tree), name, levels, leaf_order)

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[str],
        sep: str = SEPARATOR,
        *,
        name: str = "",
        levels: Iterable[str] | None = None,
        leaf_order: Iterable[str] | None = None,
    ) -> Hierarchy:
        """Read full paths of the leaves, such as ``"human/rider/bicyclist"``.

        Groups may be listed too. Leaves are numbered in the order in which they are listed. The
        other arguments are those of ``from_dict``.
        """
        return cls._from_flat(flat_from_paths(paths, sep), name, levels, leaf_order)

    @classmethod
    def from_parents(
        cls,
        parents: Mapping[str, str | None],
        *,
        name: str = "",
        levels: Iterable[str] | None = None,
        leaf_order: Iterable[str] | None = None,
    ) -> Hierarchy:
        """Read ``{node: parent}``, with parent None for top-level nodes; names must not repeat.

        Leaves are numbered in the order of the mapping. The other arguments are those of
        ``from_dict``.
        """
        return cls._from_flat(flat_from_parents(parents.items()), name, levels, leaf_order)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Hierarchy:
        """Read a built-in tree by name, or a .yaml, .yml, .json or .csv file.

        Raises:
            HierarchyError: the file is invalid, with file and line, or the name is unknown.
        """
        return cls._from_flat(*files.read(source))

    def with_leaf_order(self, names: Iterable[str]) -> Hierarchy:
        """Return the same tree with its leaves numbered in the order of `names`."""
        flat = FlatTree("", list(self.node_names), self.parent.tolist(), [None] * self.num_nodes)
        return self._from_flat(flat, self.name, self.level_names, names)

    # -- sizes and names ---------------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        """N, the number of nodes without the virtual root."""
        return len(self.node_names)

    @cached_property
    def num_leaves(self) -> int:
        """L, the number of leaves."""
        return self.num_nodes - len(np.unique(self.parent[self.parent >= 0]))

    @property
    def num_levels(self) -> int:
        """Number of nodes on the longest path from a top-level node to a leaf."""
        return len(self.level_names)

    @property
    def height(self) -> int:
        """Number of edges from the virtual root to the deepest leaf; equals ``num_levels``."""
        return len(self.level_names)

    @property
    def leaf_names(self) -> tuple[str, ...]:
        """Bare names of the leaves (L,), by id."""
        return self.node_names[: self.num_leaves]

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Full paths of the nodes (N,), joined by "/"."""
        paths: list[str] = [""] * self.num_nodes
        for node in np.argsort(self.depth, kind="stable").tolist():
            above, own = int(self.parent[node]), self.node_names[node]
            paths[node] = own if above < 0 else f"{paths[above]}{SEPARATOR}{own}"
        return tuple(paths)

    @cached_property
    def display_names(self) -> tuple[str, ...]:
        """Names for tables and metric keys (N,), unique among the nodes of each level.

        A node's bare name if it is unique among the nodes of its ``node_level``, otherwise the
        shortest path suffix that is.
        """
        return display_names(self)

    # -- levels ------------------------------------------------------------------------------

    @cached_property
    def depth(self) -> np.ndarray:
        """int64 (N,): the depth of each node, 0 at the top."""
        return numbering.frozen(numbering.depths(self.parent))

    def level_index(self, level: int | str) -> int:
        """Return the index of a level given by name or by (negative) index.

        Raises:
            HierarchyError: the tree has no such level.
        """
        total, names = self.num_levels, self.level_names
        if isinstance(level, str):
            if level in names:
                return names.index(level)
            raise HierarchyError(f"unknown level {level!r} of {self!r}; levels: {listing(names)}")
        if not -total <= operator.index(level) < total:
            raise HierarchyError(f"level {level} is outside {-total} .. {total - 1} of {self!r}")
        return operator.index(level) % total

    def level_nodes(self, level: int | str) -> np.ndarray:
        """Return the ids of the nodes of a level, ascending; together they cover all leaves.

        Args:
            level: index, negative index or name. A leaf above the level represents itself.
        """
        return self._level_nodes[self.level_index(level)]

    def leaf_to_level(self, level: int | str) -> np.ndarray:
        """Return an int64 array (L,): for each leaf the index of its node in ``level_nodes``."""
        return self._leaf_to_level[self.level_index(level)]

    @cached_property
    def _level_nodes(self) -> tuple[np.ndarray, ...]:
        levels = np.arange(self.num_levels)[:, None]
        counts = (self.depth <= levels) & (levels <= self.node_level)
        return tuple(map(numbering.frozen, map(np.flatnonzero, counts)))

    @cached_property
    def _leaf_to_level(self) -> tuple[np.ndarray, ...]:
        ancestors = self.level_ancestor[:, : self.num_leaves]
        return tuple(map(numbering.frozen, map(np.searchsorted, self._level_nodes, ancestors)))

    @cached_property
    def node_level(self) -> np.ndarray:
        """int64 (N,): the level of each node: the last level for a leaf, otherwise its depth."""
        is_leaf = np.arange(self.num_nodes) < self.num_leaves
        return numbering.frozen(np.where(is_leaf, self.num_levels - 1, self.depth))

    @cached_property
    def level_slices(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of the ids of each ``node_level``; the last is (0, L)."""
        sizes = np.bincount(self.node_level)
        stops = np.cumsum(sizes[::-1])[::-1]  # ids of the finest level come first
        return tuple(zip((stops - sizes).tolist(), stops.tolist(), strict=True))

    @cached_property
    def level_ancestor(self) -> np.ndarray:
        """int64 (num_levels, N): the node that represents node v at level l.

        The ancestor of v at depth l; v itself if v is a leaf above l; -1 if v is an inner node
        above l, because a label of v is coarser than the level.
        """
        table = np.empty((self.num_levels, self.num_nodes), dtype=np.int64)
        node = np.arange(self.num_nodes)
        is_leaf = node < self.num_leaves
        for level in reversed(range(self.num_levels)):
            node = np.where(self.depth[node] > level, self.parent[node], node)
            table[level] = np.where(is_leaf | (self.depth >= level), node, -1)
        return numbering.frozen(table)

    # -- relations ---------------------------------------------------------------------------

    def ancestors(self, node: int | str) -> tuple[int, ...]:
        """Return the node and its ancestors, from the node to the top level."""
        node = self.id(node)
        found = []
        while node >= 0:
            found.append(node)
            node = int(self.parent[node])
        return tuple(found)

    def path(self, node: int | str) -> tuple[int, ...]:
        """Return the ids on the path from the top-level node to the node."""
        return self.ancestors(node)[::-1]

    def children(self, node: int | str) -> tuple[int, ...]:
        """Return the children in the order of their first leaves; top-level nodes for -1."""
        if not isinstance(node, str) and node == -1:
            return self._children[-1]
        return self._children[self.id(node)]

    def descendants(self, node: int | str) -> tuple[int, ...]:
        """Return the node and all nodes below it, ascending."""
        found = [self.id(node)]
        for inside in found:  # grows during the loop
            found.extend(self._children[inside])
        return tuple(sorted(found))

    @cached_property
    def depth_first(self) -> np.ndarray:
        """int64 (N,): all nodes, each followed by its descendants, in the order of ``children``."""
        order: list[int] = []
        waiting = list(self._children[-1][::-1])
        while waiting:
            order.append(waiting.pop())
            waiting.extend(self._children[order[-1]][::-1])
        return numbering.frozen(order)

    def lca(self, u: int | str, v: int | str) -> int:
        """Return the lowest common ancestor; -1 if it is the virtual root."""
        above_u = set(self.ancestors(u))
        return next((node for node in self.ancestors(v) if node in above_u), -1)

    @cached_property
    def _children(self) -> tuple[tuple[int, ...], ...]:
        """The children of each node; the last entry, -1, has the top-level nodes."""
        children: list[list[int]] = [[] for _ in range(self.num_nodes + 1)]
        first_leaf = numbering.first_leaves(self.parent, self.depth, np.arange(self.num_leaves))
        for node in np.argsort(first_leaf, kind="stable").tolist():
            children[self.parent[node]].append(node)
        return tuple(map(tuple, children))

    @cached_property
    def ancestor_matrix(self) -> np.ndarray:
        """bool (N, N): [v, u] is True where u is v or an ancestor of v."""
        return numbering.frozen(numbering.ancestor_matrix(self.parent, self.depth), bool)

    @cached_property
    def distance_matrix(self) -> np.ndarray:
        """int16 (N, N): edges between two nodes, if necessary through the virtual root."""
        matrix = numbering.distance_matrix(self.parent, self.depth, self.ancestor_matrix)
        return numbering.frozen(matrix, np.int16)

    # -- finding nodes -----------------------------------------------------------------------

    def id(self, node: int | str, level: int | str | None = None) -> int:
        """Return the id of a node.

        Args:
            node: a full path (with "/"; "/car" is the top-level node of this name), a bare name,
                or an id, which is checked. A bare name means the leaf if exactly one leaf has it,
                otherwise the inner node if exactly one has it.
            level: restrict the search to the nodes of this level.

        Raises:
            HierarchyError: the name is unknown or ambiguous, or the id is outside the tree.
        """
        return self._names.find(node, None if level is None else self.level_index(level))

    def __getitem__(self, node: int | str) -> int:
        return self.id(node)

    # Without this, Python would try h[0], h[1], ... for `in` and `for`.
    __iter__ = None

    @cached_property
    def _names(self) -> NameIndex:
        return NameIndex(self)

    # -- writing -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the four arguments of ``from_dict`` as plain data."""
        number_of = Counter(self.leaf_names)
        return {
            "tree": nested(self),
            "name": self.name,
            "levels": list(self.level_names),
            "leaf_order": [
                name if number_of[name] == 1 else as_full_path(self.paths[leaf])
                for leaf, name in enumerate(self.leaf_names)
            ],
        }

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write a YAML file from which ``load`` reads an equal tree."""
        replace_text(path, yaml_text(self))

    def __str__(self) -> str:
        return draw(self)

    def __repr__(self) -> str:
        return (
            f"Hierarchy({self.name!r}, {self.num_nodes} nodes, {self.num_leaves} leaves,"
            f" {self.num_levels} levels)"
        )

    # -- identity ----------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hierarchy):
            return NotImplemented
        return self is other or (
            self.node_names == other.node_names
            and self.level_names == other.level_names
            and np.array_equal(self.parent, other.parent)
        )

    @cached_property
    def _hash(self) -> int:
        return hash((self.node_names, self.level_names, self.parent.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:  # without the tables
        return Hierarchy, (self.name, self.node_names, self.parent, self.level_names)
