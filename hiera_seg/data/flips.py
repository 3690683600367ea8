"""Swap left and right nodes in images that are mirrored."""

from collections.abc import Iterable

import numpy as np
from fvcore.transforms.transform import HFlipTransform, Transform, TransformList, VFlipTransform

from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy


def mirrors(transform: Transform) -> bool:
    """Return whether a transform turns left into right."""
    if isinstance(transform, TransformList):
        return sum(mirrors(t) for t in transform.transforms) % 2 == 1
    # An image upside down is a mirror image too, rotated by 180 degrees.
    return isinstance(transform, HFlipTransform | VFlipTransform)


def resolve_flip_pairs(
    pairs: Iterable[tuple[str | int, str | int]], hierarchy: Hierarchy
) -> list[tuple[int, int]]:
    """Return the node ids of pairs of nodes that swap when an image is mirrored.

    Raises:
        DatasetError: a pair does not consist of two nodes of the tree, or a node is in two pairs.
    """
    resolved: list[tuple[int, int]] = []
    seen: set[int] = set()
    for pair in pairs:
        try:
            left, right = (int(hierarchy.id(node)) for node in pair)
        except (TypeError, ValueError) as error:  # a HierarchyError is a ValueError
            raise DatasetError(f"flip_pairs: {pair!r}: {error}; specify two nodes") from error
        for node in (left, right):
            if node in seen:
                raise DatasetError(
                    f"flip_pairs: node {hierarchy.paths[node]!r} is in more than one pair"
                )
            seen.add(node)
        resolved.append((left, right))
    return resolved


def swap_table(pairs: Iterable, own: Hierarchy, model: Hierarchy) -> np.ndarray:
    """Return the node of the model's tree that each node becomes in a mirrored image, int64 (N,).

    The table is its own inverse. `pairs` are ``flip_pairs`` of a dataset with the tree `own`.
    """
    swap_own = np.arange(own.num_nodes)
    for left, right in resolve_flip_pairs(pairs, own):
        swap_own[[left, right]] = right, left
    # In its own tree first, because inner nodes may have more children in the model's.
    with_inner_nodes(swap_own, own)
    target = {path: node for node, path in enumerate(model.paths)}
    found = np.array([target.get(path, -1) for path in own.paths])
    both = (found >= 0) & (found[swap_own] >= 0)
    swap = np.arange(model.num_nodes)
    swap[found[both]] = found[swap_own[both]]
    return with_inner_nodes(swap, model)


def check_flip_pairs(pairs: Iterable, hierarchy: Hierarchy) -> None:
    """Check the ``flip_pairs`` of a dataset.

    Raises:
        DatasetError: see :func:`resolve_flip_pairs`; or nodes swap, but those below them do not.
    """
    swap, paths = swap_table(pairs, hierarchy, hierarchy), hierarchy.paths
    for node in np.flatnonzero(swap != np.arange(len(swap))).tolist():
        for child in hierarchy.children(node):
            if hierarchy.parent[swap[child]] != swap[node]:
                raise DatasetError(
                    f"flip_pairs: {paths[node]!r} swaps with {paths[swap[node]]!r}, but "
                    f"{paths[child]!r} with no node below that; add a pair for it"
                )


def with_inner_nodes(swap: np.ndarray, model: Hierarchy) -> np.ndarray:
    """Also swap two inner nodes if all their children swap, for images with coarse labels.

    `swap` is int64 (N,), its own inverse; it is changed in place and returned.
    """
    inner = np.arange(model.num_leaves, model.num_nodes)
    for depth in sorted(set(model.depth[inner].tolist()), reverse=True):
        nodes = inner[model.depth[inner] == depth]
        for node in nodes[swap[nodes] == nodes]:
            parents = {int(model.parent[swap[child]]) for child in model.children(int(node))}
            if len(parents) == 1 and min(parents) >= 0:
                swap[node] = parents.pop()
        one_way = nodes[swap[swap[nodes]] != nodes]
        swap[one_way] = one_way
    return swap
