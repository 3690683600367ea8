"""Compute extremes along the paths of a class tree, and sums over its leaves and levels.

All functions take the node dimension as `dim`, accept any number of other dimensions, any
floating-point dtype and any device, and are differentiable. Time and memory are linear in the
number of nodes.
"""

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex, take_nodes


def _check_dim(x: Tensor, dim: int, size: int, hierarchy: Hierarchy, what: str) -> int:
    dim = dim % x.dim()
    if x.shape[dim] != size:
        raise ValueError(
            f"dimension {dim} of shape {tuple(x.shape)} must have size {size}, the {what} of tree "
            f"{hierarchy.name!r}"
        )
    return dim


def descendant_max(x: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Return the maximum over each node and its descendants.

    Args:
        x: (..., N, ...) one value per node.
        hierarchy: the tree.
        dim: the dimension of the nodes.

    Returns:
        A new tensor of the same shape. Where values tie, the gradient may be shared among
        them in any way.
    """
    dim = _check_dim(x, dim, hierarchy.num_nodes, hierarchy, "nodes")
    index = TreeIndex.of(hierarchy, x.device)
    maxima: list[Tensor] = []  # finest level first, as the nodes are numbered
    for level in reversed(index.inner_levels):
        items = [] if level.leaves is None else [take_nodes(x, level.leaves, dim)]
        children = torch.cat([*items, *maxima[-1:]], dim)
        parent = level.child_parent.view([-1 if d == dim else 1 for d in range(x.dim())])
        own = take_nodes(x, level.nodes, dim)
        maxima.append(own.scatter_reduce(dim, parent.expand_as(children), children, "amax"))
    return torch.cat([x.narrow(dim, 0, hierarchy.num_leaves), *maxima], dim)


def ancestor_min(x: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Return the minimum over each node and its ancestors.

    Args:
        x: (..., N, ...) one value per node.
        hierarchy: the tree.
        dim: the dimension of the nodes.

    Returns:
        A new tensor of the same shape. Where values tie, the gradient may be shared among
        them in any way.
    """
    dim = _check_dim(x, dim, hierarchy.num_nodes, hierarchy, "nodes")
    index = TreeIndex.of(hierarchy, x.device)
    leaves = x.narrow(dim, 0, hierarchy.num_leaves)
    minima: list[Tensor] = []
    for depth, level in enumerate(index.inner_levels):
        own = take_nodes(x, level.nodes, dim)
        if depth:
            above = index.inner_levels[depth - 1].inner_parent
            own = torch.minimum(own, minima[-1].index_select(dim, above))
        minima.append(own)
    if not minima:
        return leaves.clone()
    no_parent = torch.full_like(leaves.narrow(dim, 0, 1), torch.inf)  # above leaves at the top
    inner = minima[::-1]
    above = torch.cat([*inner, no_parent], dim).index_select(dim, index.leaf_parent)
    return torch.cat([torch.minimum(leaves, above), *inner], dim)


def sum_over_leaves(leaf_values: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Return the sum over the leaves below each node; for a leaf, its own value.

    Args:
        leaf_values: (..., L, ...) one value per leaf.
        hierarchy: the tree.
        dim: the dimension of the leaves.

    Returns:
        (..., N, ...).
    """
    dim = _check_dim(leaf_values, dim, hierarchy.num_leaves, hierarchy, "leaves")
    index = TreeIndex.of(hierarchy, leaf_values.device)
    sums: list[Tensor] = []
    for level in reversed(index.inner_levels):
        shape = list(leaf_values.shape)
        shape[dim] = level.nodes.stop - level.nodes.start
        total = leaf_values.new_zeros(shape)
        if sums:
            total = total.index_add(dim, level.inner_parent, sums[-1])
        if level.leaves is not None:
            leaves = take_nodes(leaf_values, level.leaves, dim)
            total = total.index_add(dim, level.leaf_parent, leaves)
        sums.append(total)
    return torch.cat([leaf_values, *sums], dim)


def path_sum(node_values: Tensor, hierarchy: Hierarchy, dim: int = 1) -> Tensor:
    """Return for each leaf the sum over the levels of the value of its node at that level.

    A leaf above the deepest level represents itself at every deeper one; all leaves therefore sum
    the same number of values.

    Args:
        node_values: (..., N, ...) one value per node.
        hierarchy: the tree.
        dim: the dimension of the nodes.

    Returns:
        (..., L, ...).
    """
    dim = _check_dim(node_values, dim, hierarchy.num_nodes, hierarchy, "nodes")
    total = node_values.narrow(dim, 0, hierarchy.num_leaves)
    if hierarchy.num_levels == 1:
        return total.clone()
    for nodes in TreeIndex.of(hierarchy, node_values.device).leaf_levels[:-1]:
        total = total + node_values.index_select(dim, nodes)
    return total
