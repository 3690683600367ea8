"""Keep a class tree as tensors on a device: every table that operations and losses look up."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy

NodeIds = slice | Tensor


class InnerLevel(NamedTuple):
    """The inner nodes of one depth and their children.

    Attributes:
        nodes: their ids, one range.
        children: ids of all nodes one edge deeper that have a parent here, ascending.
        child_parent: int64 (number of children,), position of each child's parent in `nodes`.
        leaves: the children that are leaves; None if there are none.
        leaf_parent: int64, position of each of these leaves' parents in `nodes`.
        inner_parent: int64, position of the parents of the children that are inner nodes.
        rounds: pairs of index tensors that halve the groups of [nodes, inner children, leaf
            children], one group per node, until each group has one item.
    """

    nodes: slice
    children: NodeIds
    child_parent: Tensor
    leaves: NodeIds | None
    leaf_parent: Tensor
    inner_parent: Tensor
    rounds: tuple[tuple[Tensor, Tensor], ...]


class Level(NamedTuple):
    """The K nodes that stand at one level, and how other nodes and labels relate to them.

    Attributes:
        nodes: ids of the nodes, ascending, as an index: a slice where they are one range.
        ids: int64 (K,), the same ids.
        above: int64 (K,), the node that stands for each of them one level up; -1 at the top.
        position: int64 (N,), position of each node in `ids`; -1 if it does not stand here.
        leaf_position: int64 (L,), position of the node that stands for each leaf.
        target: int64 (N + 1,), position of the node that stands for each label; 0 if the label
            does not reach the level.
        reached: bool (N + 1,), False for inner nodes above the level and for void.
    """

    nodes: NodeIds
    ids: Tensor
    above: Tensor
    position: Tensor
    leaf_position: Tensor
    target: Tensor
    reached: Tensor


class ChildrenFirst(NamedTuple):
    """All nodes in an order in which children come before their parents.

    Attributes:
        nodes: int32 (N,), the ids in that order.
        depth: int32 (N,) by id.
        is_inner: int32 (N,) by id, 1 for inner nodes.
    """

    nodes: Tensor
    depth: Tensor
    is_inner: Tensor


class NearestLeaves(NamedTuple):
    """All leaves by their distance from each leaf (row), each table (L, L).

    Attributes:
        leaf: int64, the leaf at each place from near to far; the leaf of the row comes first.
        first: int64, the first place at the same distance as this one.
        distance: float32, edges to the leaf at each place.
    """

    leaf: Tensor
    first: Tensor
    distance: Tensor


class _table(cached_property):  # noqa: N801 (used as a decorator)
    """A `cached_property` that is made outside of inference mode.

    Tensors made in inference mode could not be saved for a later backward pass.
    """

    def __get__(self, instance, owner=None):
        with torch.inference_mode(False):
            return super().__get__(instance, owner)


class TreeIndex:
    """Tables of a class tree as tensors on one device; get it by `TreeIndex.of`.

    Each table is made when it is first read and then kept. Run a model once before a tracer such
    as torch.export sees it: a table made during the trace would hold the tracer's tensors.

    Tables with N + 1 columns are read by label: column v belongs to the label v, and **column N to
    void**. `hiera_seg.losses.labels.label_index` maps the ignore label to N. A pixel then costs one
    column instead of masks and targets with the size of the logits.

    Attributes:
        hierarchy: the tree, with N nodes and L leaves.
        device: where the tables are.
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
        """The nodes that stand at each level, coarse to fine."""
        return tuple(self._level(level) for level in range(self.hierarchy.num_levels))

    @_table
    def leaf_parent(self) -> Tensor:
        """int64 (L,), position of each leaf's parent among the inner nodes; N - L at the top."""
        leaves = self.hierarchy.num_leaves
        parent = self.hierarchy.parent[:leaves]
        return self._tensor(np.where(parent < 0, self.hierarchy.num_nodes, parent) - leaves)

    @_table
    def leaf_levels(self) -> Tensor:
        """int64 (num_levels, L), the node that stands for each leaf at each level."""
        return self._tensor(self.hierarchy.level_ancestor[:, : self.hierarchy.num_leaves])

    @_table
    def standing(self) -> Tensor:
        """int64 (num_levels, N + 1), the node that stands for each label at each level.

        N where the label does not reach the level, and for void.
        """
        ancestor = _with_void(self.hierarchy.level_ancestor, -1)
        return self._tensor(np.where(ancestor < 0, self.hierarchy.num_nodes, ancestor))

    @_table
    def levels_reached(self) -> Tensor:
        """int64 (N + 1,), how many levels each label reaches; 0 for void."""
        return (self.standing < self.hierarchy.num_nodes).sum(0)

    @_table
    def positive(self) -> Tensor:
        """bool (N, N + 1), True where node (row) is the label (column) or an ancestor of it."""
        return self._tensor(_with_void(self.hierarchy.ancestor_matrix.T, False))

    @_table
    def negative(self) -> Tensor:
        """bool (N, N + 1), True where node and label are neither ancestor nor descendant.

        The remaining nodes, those below the label, are unknown: neither positive nor negative.
        All nodes are unknown under void.
        """
        ancestor = self.hierarchy.ancestor_matrix
        return self._tensor(_with_void(~(ancestor | ancestor.T), False))

    @_table
    def path(self) -> Tensor:
        """int64 (num_levels, N + 1), the positive nodes of each label from the top down.

        Below the label's depth the label is repeated; 0 under void.
        """
        ancestor = self.hierarchy.level_ancestor
        ids = np.arange(self.hierarchy.num_nodes)
        return self._tensor(_with_void(np.where(ancestor >= 0, ancestor, ids), 0))

    @_table
    def on_path(self) -> Tensor:
        """bool (num_levels, N + 1), False where `path` only repeats the label, and under void."""
        levels = np.arange(self.hierarchy.num_levels)[:, None]
        return self._tensor(np.append(self.hierarchy.depth, -1) >= levels)

    @_table
    def level_size(self) -> Tensor:
        """int64 (N,), number of nodes that count at the level of each node."""
        level = self.hierarchy.node_level
        return self._tensor(np.bincount(level, minlength=self.hierarchy.num_levels)[level])

    @_table
    def outside(self) -> Tensor:
        """float32 (L, N + 1), added to leaf logits to keep only the leaves of a node.

        0 at the leaves of the node (column), -inf at all others; 0 everywhere in column N: all
        leaves together have probability 1, so that the negative log likelihood of a pixel that is
        void, or whose label does not reach a level, is 0 and never infinite.
        """
        below = _with_void(self.hierarchy.ancestor_matrix[: self.hierarchy.num_leaves], True)
        return self._tensor(np.where(below, 0.0, -np.inf), torch.float32)

    @_table
    def outside_or_none(self) -> Tensor:
        """float32 (N + 1, L + 1): `outside` by node, with an additional class "no object".

        0 at the leaves of the node (row), -inf elsewhere. In row N, 0 at "no object" alone.
        """
        table = F.pad(self.outside.t(), (0, 1), value=-torch.inf)
        table[-1] = -torch.inf
        table[-1, -1] = 0.0
        return table

    @_table
    def children_first(self) -> ChildrenFirst:
        """The order in which a kernel visits the nodes."""
        order: list[int] = []

        def visit(node: int) -> None:
            for child in self.hierarchy.children(node):
                visit(int(child))
            order.append(node)

        for root in self.hierarchy.level_nodes(0):
            visit(int(root))
        is_inner = np.arange(self.hierarchy.num_nodes) >= self.hierarchy.num_leaves
        tables = (order, self.hierarchy.depth, is_inner)
        return ChildrenFirst(*(self._tensor(values, torch.int32) for values in tables))

    @_table
    def nearest_leaves(self) -> NearestLeaves:
        """The leaves by their distance from each leaf."""
        leaves = self.hierarchy.num_leaves
        distance = torch.tensor(self.hierarchy.distance_matrix[:leaves, :leaves]).long()
        distance, leaf = distance.sort(dim=1, stable=True)
        tables = (leaf, torch.searchsorted(distance, distance), distance.float())
        return NearestLeaves(*(values.to(self.device) for values in tables))

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
        above = tree.level_ancestor[level - 1][nodes] if level else np.full(len(nodes), -1)
        return Level(
            nodes=self._ids(nodes),
            ids=self._tensor(nodes),
            above=self._tensor(above),
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
        # In the order in which `descendant_max` concatenates the items
        owner = np.concatenate(
            [np.arange(stop - start), child_parent[~is_leaf], child_parent[is_leaf]]
        )
        return InnerLevel(
            nodes=slice(start, stop),
            children=self._ids(children),
            child_parent=self._tensor(child_parent),
            leaves=self._ids(children[is_leaf]) if is_leaf.any() else None,
            leaf_parent=self._tensor(child_parent[is_leaf]),
            inner_parent=self._tensor(child_parent[~is_leaf]),
            rounds=tuple(
                (self._tensor(first), self._tensor(second))
                for first, second in _halving_rounds(owner, stop - start)
            ),
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


def _halving_rounds(owner: np.ndarray, num_groups: int) -> list[tuple[list[int], list[int]]]:
    """Return pairs of positions whose maxima halve every group, until each has one item.

    A loop over the items of the widest group would have as many rounds as it has items. This
    needs the logarithm of that, and no scatter operation (in beta, or without a deterministic
    CUDA version).
    """
    order = np.argsort(owner, kind="stable")
    cuts = np.cumsum(np.bincount(owner, minlength=num_groups))[:-1]
    groups = [group.tolist() for group in np.split(order, cuts)]
    rounds = []
    while any(len(group) > 1 for group in groups):
        first: list[int] = []
        second: list[int] = []
        halved = []
        for group in groups:
            half = (len(group) + 1) // 2
            left, right = group[:half], group[half:]
            halved.append(list(range(len(first), len(first) + half)))
            first += left
            second += right + left[len(right) :]  # an odd item is paired with itself
        rounds.append((first, second))
        groups = halved
    return rounds
