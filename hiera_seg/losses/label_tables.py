"""What a label says about every node: lookup tables read by label, one column a label.

Columns 0 .. N-1 are the node ids, column N is void. A pixel then costs one table column instead of
masks and targets of the size of the logits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_ops import NodeIds, node_ids


class NodeTables(NamedTuple):
    """Positive, negative and unknown nodes of each label.

    Attributes:
        negative: bool (N, N + 1): row v is negative under the label. False for the label, its
            ancestors (positive) and its descendants (unknown), and everywhere under void.
        path: int64 (num_levels, N + 1): the positive nodes from the top down; below the label's
            depth the label again, 0 under void.
        on_path: bool (num_levels, N + 1): False where `path` only repeats.
        level_size: int64 (N,): how many nodes count at the level of each node.
    """

    negative: Tensor
    path: Tensor
    on_path: Tensor
    level_size: Tensor


@lru_cache(maxsize=64)
def node_tables(hierarchy: Hierarchy, device: torch.device) -> NodeTables:
    """The tables of tree_min and bce; made once for a tree and device."""
    ancestor = hierarchy.ancestor_matrix
    void = np.zeros((hierarchy.num_nodes, 1), dtype=bool)
    negative = np.concatenate([~(ancestor | ancestor.T), void], axis=1)
    levels = np.arange(hierarchy.num_levels)[:, None]
    on_path = np.append(hierarchy.depth, -1) >= levels
    # level_ancestor repeats a leaf below its depth; here inner nodes repeat too.
    ids = np.arange(hierarchy.num_nodes)
    path = np.where(hierarchy.level_ancestor >= 0, hierarchy.level_ancestor, ids)
    path = np.concatenate([path, np.zeros((hierarchy.num_levels, 1), dtype=np.int64)], axis=1)
    sizes = np.bincount(hierarchy.node_level, minlength=hierarchy.num_levels)
    with torch.inference_mode(False):
        return NodeTables(
            negative=torch.tensor(negative, device=device),
            path=torch.tensor(path, device=device),
            on_path=torch.tensor(on_path, device=device),
            level_size=torch.tensor(sizes[hierarchy.node_level], device=device),
        )


class LevelTable(NamedTuple):
    """What each label says at one level.

    Attributes:
        nodes: ids of the nodes that stand at the level.
        target: int64 (N + 1,): position in `nodes` of the label's node; 0 where not reached.
        reached: bool (N + 1,): False for inner nodes above the level and for void.
    """

    nodes: NodeIds
    target: Tensor
    reached: Tensor


@lru_cache(maxsize=64)
def level_tables(hierarchy: Hierarchy, device: torch.device) -> tuple[LevelTable, ...]:
    """One table a level, coarse to fine; made once for a tree and device."""
    tables = []
    with torch.inference_mode(False):
        for level in range(hierarchy.num_levels):
            nodes = hierarchy.level_nodes(level)
            node = np.append(hierarchy.level_ancestor[level], -1)
            target = np.where(node >= 0, np.searchsorted(nodes, node), 0)
            tables.append(
                LevelTable(
                    nodes=node_ids(nodes, device),
                    target=torch.tensor(target, device=device),
                    reached=torch.tensor(node >= 0, device=device),
                )
            )
    return tuple(tables)


@lru_cache(maxsize=64)
def outside_penalty(hierarchy: Hierarchy, level: int, device: torch.device) -> Tensor:
    """float32 (L, N + 1): what to add to leaf logits to be left with the leaves of one node.

    0 for the leaves of the node that stands for the label at the level, -inf for all others. Under
    labels that do not reach the level, and under void, 0 everywhere: all leaves together have
    probability 1, so that such a pixel's negative log likelihood is 0 and never infinite.
    """
    node = np.append(hierarchy.level_ancestor[level], -1)
    below = hierarchy.ancestor_matrix[: hierarchy.num_leaves][:, node] | (node < 0)
    with torch.inference_mode(False):
        return torch.tensor(np.where(below, 0.0, -np.inf), dtype=torch.float32, device=device)
