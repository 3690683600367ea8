"""Hold the lookup tables of a class tree as tensors on a device."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy

NodeIds = slice | Tensor


class InnerLevel(NamedTuple):
    """The inner nodes of one depth and their children.

    Attributes:
        nodes: their ids, one range.
        children: ids of all nodes one edge deeper that have a parent here, ascending.
        child_parent: int64 (number of children,), position of each child's parent in `nodes`.
        leaves: the children that are leaves, which are the first ones; None if there are none.
        leaf_parent: int64, position of each of these leaves' parents in `nodes`.
        inner_parent: int64, position of the parents of the children that are inner nodes.
    """

    nodes: slice
    children: NodeIds
    child_parent: Tensor
    leaves: NodeIds | None
    leaf_parent: Tensor
    inner_parent: Tensor


class Level(NamedTuple):
    """The K nodes of one level, and how other nodes and labels relate to them.

    Attributes:
        nodes: ids of the nodes, ascending, as an index: a slice where they are one range.
        ids: int64 (K,), the same ids.
        above: int64 (K,), the node that represents each of them one level up; -1 at the top.
        place_above: int64 (K,), its position in the `ids` of that level; 0 at the top.
        position: int64 (N,), position of each node in `ids`; -1 if it is not in this level.
        leaf_position: int64 (L,), position of the node that represents each leaf.
        target: int64 (N + 1,), position of the node that represents each label; 0 if the label
            does not reach the level.
        reached: bool (N + 1,), False for inner nodes above the level and for void.
    """

    nodes: NodeIds
    ids: Tensor
    above: Tensor
    place_above: Tensor
    position: Tensor
    leaf_position: Tensor
    target: Tensor
    reached: Tensor


class ChildrenFirst(NamedTuple):
    """All nodes in depth-first order, children before their parents.

    The nodes of a subtree are contiguous in this order, with its root last.

    Attributes:
        nodes: int32 (N,), the ids in that order.
        depth: int32 (N,) by id.
        is_inner: int32 (N,) by id, 1 for inner nodes.
        first: int32 (N + 1,), the first place of the subtree of each label; 0 for void.
        last: int32 (N + 1,), the place of each label, the last of its subtree; N for void. Void
            therefore counts as an ancestor of all nodes.
    """

    nodes: Tensor
    depth: Tensor
    is_inner: Tensor
    first: Tensor
    last: Tensor


class NearestLeaves(NamedTuple):
    """Leaves by their distance from each other, each table (K, K), one row per leaf.

    Attributes:
        leaf: int64, position of the leaf at each place from near to far; that of the row is first.
        first: int64, the first place at the same distance as this one.
        distance: float32, edges to the leaf at each place.
    """

    leaf: Tensor
    first: Tensor
    distance: Tensor


class _table(cached_property):  # noqa: N801 (used as a decorator)
    """A `cached_property` that is computed outside of inference mode.

    Tensors created in inference mode cannot be saved for a later backward pass.
    """

    def __get__(self, instance, owner=None):
        with torch.inference_mode(False):
            return super().__get__(instance, owner)


class TreeIndex:
    """Tables of a class tree as tensors on one device, returned by `TreeIndex.of`.

    Each table is computed when it is first read and then cached. Run a model once before tracing
    it, for example by torch.export: a table computed in the trace would hold the tracer's tensors.

    Tables with N + 1 columns are read by label: column v belongs to the label v, and **column N to
    void**, to which `hiera_seg.losses.labels.label_index` maps the ignore label. A pixel then costs
    one column instead of masks and targets with the size of the logits. Void reaches no level, has
    no node on its path (`path` holds 0 as a placeholder), and all nodes are below it: each of its
    terms is multiplied by 0.

    Attributes:
        hierarchy: the tree, with N nodes and L leaves.
        device: device of the tables.
    """

    def __init__(self, hierarchy: Hierarchy, device: torch.device):
        self.hierarchy = hierarchy
        self.device = device

    @staticmethod
    @lru_cache(maxsize=64)
    def of(hierarchy: Hierarchy, device: torch.device) -> TreeIndex:
        """Return the index of a tree on a device; equal trees share one."""
        return TreeIndex(hierarchy, device)

    @_table
    def inner_levels(self) -> tuple[InnerLevel, ...]:
        """The inner nodes by depth, coarse to fine; empty for a flat tree."""
        return tuple(self._inner_level(depth) for depth in range(self.hierarchy.num_levels - 1))

    @_table
    def levels(self) -> tuple[Level, ...]:
        """The nodes of each level, coarse to fine."""
        return tuple(self._level(level) for level in range(self.hierarchy.num_levels))

    @_table
    def nodes(self) -> Tensor:
        """int64 (N, 1), all node ids."""
        return torch.arange(self.hierarchy.num_nodes, device=self.device)[:, None]

    @_table
    def is_known(self) -> Tensor:
        """float32 (N + 1,), 1 for all labels but void."""
        return self._tensor(np.arange(self.hierarchy.num_nodes + 1) < len(self.nodes)).float()

    @_table
    def leaf_parent(self) -> Tensor:
        """int64 (L,), position of each leaf's parent among the inner nodes; N - L at the top."""
        leaves = self.hierarchy.num_leaves
        parent = self.hierarchy.parent[:leaves]
        return self._tensor(np.where(parent < 0, self.hierarchy.num_nodes, parent) - leaves)

    @_table
    def leaf_levels(self) -> Tensor:
        """int64 (num_levels, L), the node that represents each leaf at each level."""
        return self._tensor(self.hierarchy.level_ancestor[:, : self.hierarchy.num_leaves])

    @_table
    def path(self) -> Tensor:
        """int64 (num_levels, N + 1), the positive nodes of each label from the top down.

        Below the label's depth the label is repeated; 0 under void.
        """
        ancestor = self.hierarchy.level_ancestor
        ids = np.arange(self.hierarchy.num_nodes)
        return self._tensor(_with_void(np.where(ancestor >= 0, ancestor, ids), 0))

    @_table
    def off_path(self) -> Tensor:
        """bool (num_levels, N + 1), True where `path` only repeats the label, and under void."""
        levels = np.arange(self.hierarchy.num_levels)[:, None]
        return self._tensor(np.append(self.hierarchy.depth, -1) < levels)

    @_table
    def has_unknown(self) -> Tensor:
        """bool (N + 1,), True for labels with nodes below them: inner nodes and void."""
        return self.children_first.first < self.children_first.last

    @_table
    def level_size(self) -> Tensor:
        """int64 (N,), number of nodes that count at the level of each node."""
        level = self.hierarchy.node_level
        return self._tensor(np.bincount(level, minlength=self.hierarchy.num_levels)[level])

    @_table
    def children_first(self) -> ChildrenFirst:
        """The depth-first order, which also determines which nodes are below which."""
        nodes, parent = self.hierarchy.num_nodes, self.hierarchy.parent
        before = self.hierarchy.depth_first
        size = np.ones(nodes + 1, int)
        for node in before[::-1]:
            size[parent[node]] += size[node]  # the last entry, -1, counts all nodes
        # In post-order a node is later than in pre-order by the number of its descendants, and
        # earlier by the number of its ancestors.
        last = np.append(np.argsort(before) + size[:-1] - 1 - self.hierarchy.depth, nodes)
        first = last - size + 1
        is_inner = np.arange(nodes) >= self.hierarchy.num_leaves
        tables = (np.argsort(last[:-1]), self.hierarchy.depth, is_inner, first, last)
        return ChildrenFirst(*(self._tensor(values, torch.int32) for values in tables))

    @_table
    def all_nearest_leaves(self) -> NearestLeaves:
        """`nearest_leaves` of all leaves, 20 bytes per pair."""
        return self.nearest_leaves(torch.arange(self.hierarchy.num_leaves, device=self.device))

    def is_below(self, nodes: Tensor, labels: Tensor) -> Tensor:
        """Return whether nodes are below labels; all nodes are below void, none is below itself.

        Args:
            nodes: int64 node ids.
            labels: int64 node ids, or N for void, of a shape that fits by broadcasting.

        Returns:
            bool, of the common shape.
        """
        tree = self.children_first
        place = tree.last[nodes]
        return (tree.first[labels] <= place) & (place < tree.last[labels])

    def is_on_path(self, nodes: Tensor, labels: Tensor) -> Tensor:
        """Return whether nodes are labels or above them; none is under void. See `is_below`."""
        tree = self.children_first
        place = tree.last[labels]
        return (tree.first[nodes] <= place) & (place <= tree.last[nodes])

    def nearest_leaves(self, leaves: Tensor) -> NearestLeaves:
        """Sort leaves by their distance from each other.

        Args:
            leaves: int64 (K,), ids in ascending order.

        Returns:
            Tables (K, K), whose positions refer to `leaves`.
        """
        levels = self.leaf_levels[:, leaves]
        depth = self.children_first.depth[leaves].long()
        shared = torch.zeros(len(leaves), len(leaves), dtype=torch.int64, device=self.device)
        for nodes in levels:
            shared += nodes[:, None] == nodes
        # The depth of the lowest common ancestor is one less than the levels that are shared.
        distance = (depth[:, None] + depth - 2 * (shared - 1)).fill_diagonal_(0)
        distance, leaf = distance.sort(dim=1, stable=True)
        return NearestLeaves(leaf, torch.searchsorted(distance, distance), distance.float())

    def _tensor(self, values: object, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def _ids(self, ids: np.ndarray) -> NodeIds:
        """Make an index of ascending node ids: a slice (a view, no copy) if they are one range."""
        if len(ids) == 0 or ids[-1] - ids[0] + 1 == len(ids):
            first = int(ids[0]) if len(ids) else 0
            return slice(first, first + len(ids))
        return self._tensor(ids)

    def _level(self, level: int) -> Level:
        tree = self.hierarchy
        nodes = np.array(tree.level_nodes(level))
        position = np.full(tree.num_nodes, -1)
        position[nodes] = np.arange(len(nodes))
        node = np.append(tree.level_ancestor[level], -1)
        above, place_above = np.full(len(nodes), -1), np.zeros(len(nodes), int)
        if level:
            above = tree.level_ancestor[level - 1][nodes]
            place_above = np.searchsorted(tree.level_nodes(level - 1), above)
        return Level(
            nodes=self._ids(nodes),
            ids=self._tensor(nodes),
            above=self._tensor(above),
            place_above=self._tensor(place_above),
            position=self._tensor(position),
            leaf_position=self._tensor(tree.leaf_to_level(level)),
            target=self._tensor(np.where(node >= 0, position[node], 0)),
            reached=self._tensor(node >= 0),
        )

    def _inner_level(self, depth: int) -> InnerLevel:
        tree = self.hierarchy
        start, stop = tree.level_slices[depth]
        children = np.flatnonzero(tree.depth == depth + 1)
        is_leaf = children < tree.num_leaves
        child_parent = tree.parent[children] - start
        return InnerLevel(
            nodes=slice(start, stop),
            children=self._ids(children),
            child_parent=self._tensor(child_parent),
            leaves=self._ids(children[is_leaf]) if is_leaf.any() else None,
            leaf_parent=self._tensor(child_parent[is_leaf]),
            inner_parent=self._tensor(child_parent[~is_leaf]),
        )


def take_nodes(x: Tensor, nodes: NodeIds, dim: int) -> Tensor:
    """Select nodes by an index of `TreeIndex`; a view of `x` if they are one range."""
    if isinstance(nodes, slice):
        return x.narrow(dim, nodes.start, nodes.stop - nodes.start)
    return x.index_select(dim, nodes)


def _with_void(table: np.ndarray, value: object) -> np.ndarray:
    """Add a column for void, filled with one value."""
    column = np.full((len(table), 1), value, table.dtype)
    return np.ascontiguousarray(np.concatenate([table, column], axis=1))
