"""``Hierarchy``: the immutable class tree that every other part of the package reads."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from . import files
from .drawing import draw
from .errors import HierarchyError, listing, suggestion
from .inputs import SEPARATOR, FlatTree, flat_from_parents, flat_from_paths, flat_from_tree
from .numbering import check_levels, number_nodes, walk


def _frozen(values: Any, dtype: Any = np.int64) -> np.ndarray:
    array = np.ascontiguousarray(values, dtype=dtype)
    array.setflags(write=False)
    return array


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
        parent: int64 array (N,), -1 at the top.
        depth: int64 array (N,), 0 at the top.
    """

    name: str
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
        parent = _frozen(parent)
        depth = _depths(parent)
        has_child = np.zeros(len(parent), dtype=bool)
        has_child[parent[parent >= 0]] = True
        self.__dict__.update(
            name=name,
            node_names=tuple(node_names),
            level_names=tuple(levels),
            parent=parent,
            depth=_frozen(depth),
            _num_leaves=int(len(parent) - has_child.sum()),
            _level_nodes={},
            _leaf_to_level={},
        )
        return self

    @classmethod
    def _from_flat(cls, flat: FlatTree, name: Any, levels: Any, leaf_order: Any) -> Hierarchy:
        if not isinstance(name, str):
            raise HierarchyError(f"the name of a hierarchy must be a string, not {name!r}")
        node_names, parent = number_nodes(flat, leaf_order)
        num_levels = int(_depths(parent).max()) + 1
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
        if isinstance(tree, dict) and set(tree) == set(files.FILE_KEYS):
            if tree["name"] is None or isinstance(tree["name"], str):
                raise HierarchyError(
                    "from_dict takes the tree and the rest apart: from_dict(**data), not"
                    " from_dict(data)"
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
    def num_leaves(self) -> int:
        """L; the leaves are the nodes ``0 .. L-1``."""
        return self._num_leaves

    @property
    def num_levels(self) -> int:
        return len(self.level_names)

    @property
    def height(self) -> int:
        """Edges from the virtual root to the deepest leaf; equals ``num_levels``."""
        return len(self.level_names)

    @property
    def leaf_names(self) -> tuple[str, ...]:
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
        """Names for tables and metric keys (N,), unique among the nodes of a level.

        The bare name where it is unique among the nodes of the node's level, else the shortest
        path suffix that is (the full path where there is none, as for leaves ``b`` and ``a/b``).
        """
        names: list[str] = list(self.node_names)
        for level in range(self.num_levels):
            for node, name in self._distinct(self.level_nodes(level).tolist()).items():
                if self.node_level[node] == level:
                    names[node] = name
        return tuple(names)

    def _distinct(self, nodes: list[int]) -> dict[int, str]:
        result = {node: self.node_names[node] for node in nodes}
        above = {node: int(self.parent[node]) for node in nodes}
        while True:
            groups: dict[str, list[int]] = {}
            for node, suffix in result.items():
                groups.setdefault(suffix, []).append(node)
            clash = [n for same in groups.values() if len(same) > 1 for n in same if above[n] >= 0]
            if not clash:
                return result
            for node in clash:
                result[node] = f"{self.node_names[above[node]]}{SEPARATOR}{result[node]}"
                above[node] = int(self.parent[above[node]])

    # -- levels ------------------------------------------------------------------------------

    def level_index(self, level: int | str) -> int:
        """Returns the index of a level given by name or (negative) index."""
        if isinstance(level, str):
            if level in self.level_names:
                return self.level_names.index(level)
            raise HierarchyError(
                f"unknown level {level!r} of {self!r}; levels: {listing(self.level_names)}"
            )
        try:
            index = operator.index(level)
        except TypeError:
            raise HierarchyError(f"a level is a name or an index, not {level!r}") from None
        if not -self.num_levels <= index < self.num_levels:
            raise HierarchyError(
                f"level {index} is outside {-self.num_levels} .. {self.num_levels - 1}"
                f" of {self!r}"
            )
        return index % self.num_levels

    def level_nodes(self, level: int | str) -> np.ndarray:
        """Returns the ids of the nodes that stand at a level, ascending; every leaf is below one.

        Args:
            level: Index, negative index or name. A leaf above the level stands for itself.
        """
        level = self.level_index(level)
        if level not in self._level_nodes:
            shallow = (self.depth < level) & (np.arange(self.num_nodes) < self.num_leaves)
            self._level_nodes[level] = _frozen(np.flatnonzero((self.depth == level) | shallow))
        return self._level_nodes[level]

    def leaf_to_level(self, level: int | str) -> np.ndarray:
        """Returns an int64 array (L,): for each leaf the index of its node in ``level_nodes``."""
        level = self.level_index(level)
        if level not in self._leaf_to_level:
            node = np.arange(self.num_leaves)
            while (deeper := self.depth[node] > level).any():
                node = np.where(deeper, self.parent[node], node)
            self._leaf_to_level[level] = _frozen(np.searchsorted(self.level_nodes(level), node))
        return self._leaf_to_level[level]

    @cached_property
    def node_level(self) -> np.ndarray:
        """int64 (N,): the level at which a node counts once: a leaf the last, others their depth."""
        is_leaf = np.arange(self.num_nodes) < self.num_leaves
        return _frozen(np.where(is_leaf, self.num_levels - 1, self.depth))

    @cached_property
    def level_slices(self) -> tuple[tuple[int, int], ...]:
        """Per level the (start, stop) of the ids whose ``node_level`` it is; the last is (0, L)."""
        counts = np.bincount(self.depth[self.num_leaves :], minlength=self.num_levels - 1)
        stops = self.num_leaves + np.cumsum(counts[::-1])[::-1]
        inner = [(int(stop - count), int(stop)) for stop, count in zip(stops, counts)]
        return (*inner, (0, self.num_leaves))

    @cached_property
    def level_ancestor(self) -> np.ndarray:
        """int64 (num_levels, N): the node that stands for node v at level l.

        Its ancestor at depth l; v itself where v is a leaf above l; -1 where v is an inner node
        above l (a label of v does not reach the level).
        """
        table = np.empty((self.num_levels, self.num_nodes), dtype=np.int64)
        node = np.arange(self.num_nodes)
        is_leaf = node < self.num_leaves
        for level in reversed(range(self.num_levels)):
            node = np.where(self.depth[node] > level, self.parent[node], node)
            table[level] = np.where(is_leaf | (self.depth >= level), node, -1)
        return _frozen(table)

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
        """Children per node, those of the virtual root last (index -1)."""
        first = np.full(self.num_nodes + 1, self.num_nodes)
        first[: self.num_leaves] = np.arange(self.num_leaves)
        for node in np.argsort(-self.depth, kind="stable").tolist():
            above = self.parent[node]
            first[above] = min(first[above], first[node])
        children: list[list[int]] = [[] for _ in range(self.num_nodes + 1)]
        for node in np.argsort(first[:-1], kind="stable").tolist():
            children[self.parent[node]].append(node)
        return tuple(tuple(row) for row in children)

    @cached_property
    def ancestor_matrix(self) -> np.ndarray:
        """bool (N, N): [v, u] is True where u is v or an ancestor of v."""
        matrix = np.eye(self.num_nodes, dtype=bool)
        for nodes in self._by_depth[1:]:
            matrix[nodes] |= matrix[self.parent[nodes]]
        return _frozen(matrix, bool)

    @cached_property
    def distance_matrix(self) -> np.ndarray:
        """int16 (N, N): edges between two nodes, through the virtual root where need be."""
        dtype = np.int16 if 2 * self.height <= np.iinfo(np.int16).max else np.int32
        below = self.ancestor_matrix.T  # [v, u]: u is in the subtree of v
        matrix = np.empty((self.num_nodes, self.num_nodes), dtype=dtype)
        for level, nodes in enumerate(self._by_depth):
            # One step down is one edge nearer to the subtree entered and one farther from the rest.
            above = matrix[self.parent[nodes]] if level else (self.depth + 1).astype(dtype)[None]
            matrix[nodes] = above + dtype(1) - dtype(2) * below[nodes]
        return _frozen(matrix, dtype)

    @cached_property
    def _by_depth(self) -> tuple[np.ndarray, ...]:
        order = np.argsort(self.depth, kind="stable")
        return tuple(np.split(order, np.cumsum(np.bincount(self.depth))[:-1]))

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
        if level is not None:
            return self._id_at(node, self.level_index(level))
        if not isinstance(node, str):
            return self._check_id(node)
        if SEPARATOR in node:
            found = walk(self._index_of, node)
            if found is None:
                self._unknown(node)
            return found
        leaves, inner = self._by_name.get(node, ((), ()))
        for same in (leaves, inner):
            if len(same) == 1:
                return same[0]
        if not leaves and not inner:
            self._unknown(node)
        paths = listing(self._label(same) for same in (*leaves, *inner))
        raise HierarchyError(f"name {node!r} is ambiguous in {self!r}: write a path, one of {paths}")

    def __getitem__(self, node: int | str) -> int:
        return self.id(node)

    # Without these, Python would try h[0], h[1], ... for `in` and `for`.
    __iter__ = None
    __contains__ = None

    def _check_id(self, node: Any) -> int:
        try:
            index = operator.index(node)
        except TypeError:
            raise HierarchyError(f"a node is a name or an id, not {node!r}") from None
        if not 0 <= index < self.num_nodes:
            raise HierarchyError(f"node id {index} is outside 0 .. {self.num_nodes - 1} of {self!r}")
        return index

    def _id_at(self, node: int | str, level: int) -> int:
        standing = self.level_nodes(level)
        if isinstance(node, str) and SEPARATOR not in node:
            same = [n for half in self._by_name.get(node, ()) for n in half if n in standing]
            if len(same) > 1:
                paths = listing(self._label(n) for n in same)
                raise HierarchyError(
                    f"name {node!r} is ambiguous at level {self.level_names[level]!r} of {self!r}:"
                    f" write a path, one of {paths}"
                )
            if same:
                return same[0]
            if node not in self._by_name:
                self._unknown(node)
        elif (found := self.id(node)) in standing:
            return found
        raise HierarchyError(
            f"{node!r} does not stand at level {self.level_names[level]!r} of {self!r}; nodes"
            f" there: {listing(self.paths[n] for n in standing.tolist())}"
        )

    def _unknown(self, node: str) -> None:
        known = self.paths if SEPARATOR in node else self.node_names
        raise HierarchyError(f"unknown name {node!r} in {self!r}{suggestion(node, known)}")

    def _label(self, node: int) -> str:
        """Returns the full path in the form that ``id`` takes for one."""
        path = self.paths[node]
        return path if SEPARATOR in path else SEPARATOR + path

    @cached_property
    def _index_of(self) -> dict[tuple[int, str], int]:
        return {
            (above, name): node
            for node, (above, name) in enumerate(zip(self.parent.tolist(), self.node_names))
        }

    @cached_property
    def _by_name(self) -> dict[str, tuple[list[int], list[int]]]:
        """Name -> (leaves, inner nodes) that have it."""
        found: dict[str, tuple[list[int], list[int]]] = {}
        for node, name in enumerate(self.node_names):
            found.setdefault(name, ([], []))[node >= self.num_leaves].append(node)
        return found

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
                name if len(self._by_name[name][0]) == 1 else self._label(leaf)
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


def _depths(parent: np.ndarray) -> np.ndarray:
    """Returns the depth of every node; steps up from all nodes at once, halving what is left."""
    total = len(parent)
    jump = np.append(np.where(parent >= 0, parent, total), total)
    depth = np.append((parent >= 0).astype(np.int64), 0)
    while (jump != total).any():
        depth = depth + depth[jump]
        jump = jump[jump]
    return depth[:-1]


def as_hierarchy(source: Hierarchy | Mapping[str, Any] | str | os.PathLike[str]) -> Hierarchy:
    """Returns a Hierarchy from any form a user may give one in.

    Args:
        source: A Hierarchy; plain data as ``to_dict`` gives it (any of its keys with ``tree``); a
            bare tree as ``from_dict`` takes it; a built-in name; or a file.
    """
    if isinstance(source, Hierarchy):
        return source
    if isinstance(source, Mapping):
        if "tree" in source and set(source) <= set(files.FILE_KEYS):
            return Hierarchy.from_dict(**source)
        return Hierarchy.from_dict(source)
    return Hierarchy.load(source)
