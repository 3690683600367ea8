"""``Hierarchy``: the immutable class tree that every other part of the package reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import files, tables
from hiera_seg.hierarchy.drawing import draw
from hiera_seg.hierarchy.inputs import (
    SEPARATOR,
    FlatTree,
    flat_from_parents,
    flat_from_paths,
    flat_from_tree,
)
from hiera_seg.hierarchy.naming import NameIndex, as_full_path, display_names, level_index
from hiera_seg.hierarchy.numbering import check_levels, number_nodes


class Hierarchy:
    """An immutable tree of classes. Made by ``load`` and the ``from_...`` methods only.

    Node ids: leaves first, ``0 .. L-1``, in ``leaf_order``; then inner nodes from the finest level
    to the coarsest, each level in the order of its first leaf. The virtual root above the top-level
    nodes has no id; -1 stands for it.

    A leaf above the deepest level stands for itself at every deeper level.

    Attributes:
        name: What the tree is called; no part of equality.
        node_names: Bare names of the nodes (N,), by id.
        level_names: Names of the levels, coarse to fine.
        num_leaves: L.
        parent: int64 array (N,), -1 at the top.
        depth: int64 array (N,), 0 at the top.
    """

    name: str
    num_leaves: int
    node_names: tuple[str, ...]
    level_names: tuple[str, ...]
    parent: np.ndarray
    depth: np.ndarray

    # -- construction ------------------------------------------------------------------------

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            "make a Hierarchy with Hierarchy.load, .from_dict, .from_paths or .from_parents"
        )

    @classmethod
    def _make(
        cls, name: str, node_names: tuple[str, ...], parent: np.ndarray, levels: tuple[str, ...]
    ) -> Hierarchy:
        self = object.__new__(cls)
        parent = tables.frozen(parent)
        num_leaves = len(parent) - len(np.unique(parent[parent >= 0]))
        self.__dict__.update(
            name=name,
            node_names=tuple(node_names),
            level_names=tuple(levels),
            parent=parent,
            depth=tables.frozen(tables.depths(parent)),
            num_leaves=num_leaves,
            _level_nodes={},
            _leaf_to_level={},
        )
        return self

    @classmethod
    def _from_flat(cls, flat: FlatTree, name: Any, levels: Any, leaf_order: Any) -> Hierarchy:
        if not isinstance(name, str):
            raise HierarchyError(f"the name of a hierarchy must be a string, not {name!r}")
        node_names, parent, num_levels = number_nodes(flat, leaf_order)
        return cls._make(name, node_names, parent, check_levels(levels, num_levels, flat.origin))

    @classmethod
    def from_dict(
        cls,
        tree: Any,
        *,
        name: str = "",
        levels: Iterable[str] | None = None,
        leaf_order: Iterable[str] | None = None,
    ) -> Hierarchy:
        """Reads a nested dict / list / None.

        Args:
            tree: A dict of name -> children, or a list. Children None make a leaf; strings in a
                list are leaves, dicts in a list are groups among them.
            name: What to call the tree.
            levels: Level names, coarse to fine; default ``level_0``, ``level_1``, ...
            leaf_order: Leaf names in the order of their ids (full paths where names repeat);
                default: order of appearance.

        Raises:
            HierarchyError: Naming the node and where it stands.
        """
        # with "tree" alone it may be a tree whose one top-level node is called so
        if isinstance(tree, dict) and {"tree"} < set(tree) <= set(files.FILE_KEYS):
            raise HierarchyError(
                "this dict holds the tree beside its name, levels and leaf order: write"
                " from_dict(**data)"
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
        """Reads full paths from the top down, one a leaf, as ``"human/rider/bicyclist"``.

        A path that others go on from is a group; it may be listed or not. Leaves are numbered in
        the order in which they are listed. The other arguments are those of ``from_dict``.
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
        """Reads ``{node: parent}``, None for a top-level node; names must not repeat.

        Leaves are numbered in the order of the mapping. The other arguments are those of
        ``from_dict``.
        """
        if not isinstance(parents, Mapping):
            raise HierarchyError(f"parents must be a mapping, not a {type(parents).__name__}")
        return cls._from_flat(flat_from_parents(parents.items()), name, levels, leaf_order)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Hierarchy:
        """Reads a built-in tree by name, or a .yaml, .yml, .json or .csv file.

        Raises:
            HierarchyError: With file and line, or the built-in names there are.
        """
        data = files.read(source)
        name = data.name if data.name is not None else data.stem
        return cls._from_flat(data.flat, name, data.levels, data.leaf_order)

    def with_leaf_order(self, names: Iterable[str]) -> Hierarchy:
        """Returns the same tree with the leaves renumbered to ``names`` (a dataset's order)."""
        flat = FlatTree("", list(self.node_names), self.parent.tolist(), [None] * self.num_nodes)
        return self._from_flat(flat, self.name, self.level_names, names)

    # -- sizes and names ---------------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        """N, the virtual root not counted."""
        return len(self.node_names)

    @property
    def num_levels(self) -> int:
        """Nodes on the longest path from the top down."""
        return len(self.level_names)

    @property
    def height(self) -> int:
        """Edges from the virtual root to the deepest leaf; equals ``num_levels``."""
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
        """Names for tables and metric keys (N,), never the same for two nodes of one level.

        The bare name where it is unique among the nodes of the node's level (a leaf's is the last
        one), else the shortest path suffix that is.
        """
        return display_names(self, self._names)

    # -- levels ------------------------------------------------------------------------------

    def level_index(self, level: int | str) -> int:
        """Returns the index of a level given by name or by (negative) index."""
        return level_index(self, level)

    def level_nodes(self, level: int | str) -> np.ndarray:
        """Returns the ids of the nodes that stand at a level, ascending; every leaf is below one.

        Args:
            level: Index, negative index or name. A leaf above the level stands for itself.
        """
        level = self.level_index(level)
        if level not in self._level_nodes:
            shallow = (self.depth < level) & (np.arange(self.num_nodes) < self.num_leaves)
            self._level_nodes[level] = tables.frozen(
                np.flatnonzero((self.depth == level) | shallow)
            )
        return self._level_nodes[level]

    def leaf_to_level(self, level: int | str) -> np.ndarray:
        """Returns an int64 array (L,): for each leaf the index of its node in ``level_nodes``."""
        level = self.level_index(level)
        if level not in self._leaf_to_level:
            node = tables.leaf_ancestors(self.parent, self.depth, self.num_leaves, level)
            place = np.searchsorted(self.level_nodes(level), node)
            self._leaf_to_level[level] = tables.frozen(place)
        return self._leaf_to_level[level]

    @cached_property
    def node_level(self) -> np.ndarray:
        """int64 (N,): the level a node counts at: the last one for a leaf, else its depth."""
        is_leaf = np.arange(self.num_nodes) < self.num_leaves
        return tables.frozen(np.where(is_leaf, self.num_levels - 1, self.depth))

    @cached_property
    def level_slices(self) -> tuple[tuple[int, int], ...]:
        """Per level the (start, stop) of the ids whose ``node_level`` it is; the last is (0, L)."""
        return tables.level_slices(self.depth, self.num_leaves, self.num_levels)

    @cached_property
    def level_ancestor(self) -> np.ndarray:
        """int64 (num_levels, N): the node that stands for node v at level l.

        Its ancestor at depth l; v itself where v is a leaf above l; -1 where v is an inner node
        above l (a label of v does not reach the level).
        """
        return tables.frozen(
            tables.level_ancestors(self.parent, self.depth, self.num_leaves, self.num_levels)
        )

    # -- relations ---------------------------------------------------------------------------

    def ancestors(self, node: int | str) -> tuple[int, ...]:
        """Returns the node and its ancestors, from the node up."""
        node = self.id(node)
        found = []
        while node >= 0:
            found.append(node)
            node = int(self.parent[node])
        return tuple(found)

    def path(self, node: int | str) -> tuple[int, ...]:
        """Returns the ids from the top-level node down to the node."""
        return self.ancestors(node)[::-1]

    def children(self, node: int | str) -> tuple[int, ...]:
        """Returns the children in the order of their first leaves; of -1 the top-level nodes."""
        if not isinstance(node, str) and node == -1:
            return self._children[-1]
        return self._children[self.id(node)]

    def descendants(self, node: int | str) -> tuple[int, ...]:
        """Returns the node and all nodes below it, ascending."""
        found = [self.id(node)]
        for inside in found:  # grows while it is walked
            found.extend(self._children[inside])
        return tuple(sorted(found))

    def lca(self, u: int | str, v: int | str) -> int:
        """Returns the lowest common ancestor; -1 where only the virtual root is common."""
        u, v = self.id(u), self.id(v)
        while u != v:
            if u < 0 or v < 0:
                return -1
            if self.depth[u] >= self.depth[v]:
                u = int(self.parent[u])
            else:
                v = int(self.parent[v])
        return u

    @cached_property
    def _children(self) -> tuple[tuple[int, ...], ...]:
        return tables.children_lists(self.parent, self.depth, self.num_leaves)

    @cached_property
    def ancestor_matrix(self) -> np.ndarray:
        """bool (N, N): [v, u] is True where u is v or an ancestor of v."""
        return tables.frozen(tables.ancestor_matrix(self.parent, self.depth), bool)

    @cached_property
    def distance_matrix(self) -> np.ndarray:
        """int16 (N, N): edges between two nodes, through the virtual root where need be."""
        matrix = tables.distance_matrix(self.parent, self.depth, self.ancestor_matrix)
        return tables.frozen(matrix, matrix.dtype)

    # -- finding nodes -----------------------------------------------------------------------

    def id(self, node: int | str, level: int | str | None = None) -> int:
        """Returns the id of a node.

        Args:
            node: A full path (with "/"; "/car" is the top-level node of that name), a bare name,
                or an id, which is checked. A bare name means the leaf if exactly one leaf has it,
                else the inner node if exactly one has it.
            level: Only a node that stands at this level.

        Raises:
            HierarchyError: Unknown or ambiguous name, or id outside the tree.
        """
        if level is None:
            return self._names.find(node)
        return self._names.find_at(node, self.level_index(level))

    def __getitem__(self, node: int | str) -> int:
        return self.id(node)

    # Without this, Python would try h[0], h[1], ... for `in` and `for`.
    __iter__ = None

    @cached_property
    def _names(self) -> NameIndex:
        return NameIndex(self)

    # -- writing -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Returns the four arguments of ``from_dict`` as plain data."""
        built: list[Any] = [None] * (self.num_nodes + 1)
        inner = sorted(range(self.num_leaves, self.num_nodes), key=lambda n: -self.depth[n])
        for node in (*inner, -1):
            children = self._children[node]
            if all(child < self.num_leaves for child in children):
                built[node] = [self.node_names[child] for child in children]
            else:
                built[node] = {self.node_names[child]: built[child] for child in children}
        return {
            "tree": built[-1],
            "name": self.name,
            "levels": list(self.level_names),
            "leaf_order": [
                name if len(self._names.leaves[name]) == 1 else as_full_path(self.paths[leaf])
                for leaf, name in enumerate(self.leaf_names)
            ],
        }

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Writes a file that ``load`` reads back equal."""
        files.write_yaml(self, path)

    def __str__(self) -> str:
        return draw(self)

    def __repr__(self) -> str:
        return (
            f"Hierarchy({self.name!r}, {self.num_nodes} nodes, {self.num_leaves} leaves,"
            f" {self.num_levels} levels)"
        )

    # -- identity ----------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Hierarchy is immutable: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Hierarchy is immutable: {name!r} cannot be deleted")

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

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self.node_names, self.parent.tolist(), self.level_names)

    def __copy__(self) -> Hierarchy:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Hierarchy:
        return self


def _restore(name: str, node_names: Any, parent: Any, levels: Any) -> Hierarchy:
    return Hierarchy._make(name, node_names, parent, levels)
