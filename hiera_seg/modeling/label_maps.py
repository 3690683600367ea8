"""Decode node outputs to label maps without a score for every leaf.

Leaves of one parent have the same ancestors, and their scores grow with their values. So the best
path of a pixel ends at the best leaf of some family, and only this leaf of each family needs a
score. Columns are resized first, once per row of the values instead of once per row of the result.
The labels are those of scoring all leaves, except where scores tie after rounding.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.modeling.resize import Resize, resize_columns, resize_row_range, rows_needed

VARIANTS = ("path_sum", "leaf", "marginal")  # in which the scores of siblings grow with the values

# Values of the result for which columns are resized at a time. A larger block resizes fewer rows of
# the network's output twice; a smaller one stays in the cache.
_BLOCK_VALUES, _MIN_ROWS = 1 << 23, 8

# The least ratio of nodes to families, and to leaves of the largest, with which this is faster
_MIN_SHARE = 4


class Families(NamedTuple):
    """The leaves of a tree by parent; all leaves at the top are one family.

    Attributes:
        order: int64 (N,), the leaves of a family side by side, families of one size side by side,
            then the inner nodes.
        blocks: (first place, number of families, size of each) for each size.
        members: int64 (largest size, F), the places of the leaves of each family; smaller families
            repeat their first.
        above: int64 (num_levels - 1, F), the inner node over each family at each level, counted
            from the first one; their number if there is none.
        levels: float32 (F, 1, 1), the number of levels at which the leaves of each family stand.
    """

    order: Tensor
    blocks: tuple[tuple[int, int, int], ...]
    members: Tensor
    above: Tensor
    levels: Tensor

    @staticmethod
    @lru_cache(maxsize=64)
    def of(hierarchy: Hierarchy) -> "Families":
        """Return the families of a tree; equal trees share them."""
        num_leaves = hierarchy.num_leaves
        by_parent: dict[int, list[int]] = {}
        for leaf, parent in enumerate(hierarchy.parent[:num_leaves].tolist()):
            by_parent.setdefault(parent, []).append(leaf)
        families = sorted(by_parent.values(), key=len)
        sizes = np.array([len(family) for family in families])
        starts = np.cumsum(sizes) - sizes
        members = starts[:, None] + np.arange(sizes[-1])
        members = np.where(members < (starts + sizes)[:, None], members, starts[:, None])
        above = hierarchy.level_ancestor[:, [family[0] for family in families]]
        inner = above >= num_leaves
        blocks = tuple(
            (int(starts[sizes == size][0]), int((sizes == size).sum()), int(size))
            for size in np.unique(sizes)
        )
        order = np.concatenate([*families, np.arange(num_leaves, hierarchy.num_nodes)])
        above = np.where(inner, above, hierarchy.num_nodes)[:-1] - num_leaves
        with torch.inference_mode(False):
            return Families(
                torch.from_numpy(order.astype(np.int64)),
                blocks,
                torch.from_numpy(members.T.copy()),
                torch.from_numpy(above),
                torch.from_numpy((~inner).sum(0)[:, None, None]).float(),
            )


def decodes_by_family(values: Tensor, variant: str, hierarchy: Hierarchy) -> bool:
    """Return whether `decode_by_family` gives the labels of some node outputs, and is faster.

    On a GPU a look at the values would wait for the device.
    """
    return (
        variant in VARIANTS
        and values.device.type == "cpu"
        and _MIN_SHARE * max(Families.of(hierarchy).members.shape) <= hierarchy.num_nodes
        and bool(values.sum().isfinite())
    )


def decode_by_family(
    values: Tensor,
    row_steps: list[Resize],
    widths: tuple[int, int, int],
    height: int,
    hierarchy: Hierarchy,
    *,
    sigmoid: bool,
    paths: bool,
    band_values: int,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Decode node outputs of one image to the path of its best leaf.

    Args:
        values: (N, h, w) float on a CPU, all finite.
        row_steps: the resizes of rows, to `height`.
        widths: of the network's input, of the image in it, and of the result, as in
            `resize_columns`.
        sigmoid: whether the score of a node is the sigmoid of its value, or the value itself.
        paths: whether a leaf is ranked by the sum of the scores of its path, or by its own score.
        band_values: number of values to process at a time.

    Returns:
        For each level, coarse to fine, (height, widths[2]) node ids.
    """
    families = Families.of(hierarchy)
    num_leaves = hierarchy.num_leaves
    leaf_levels = TreeIndex.of(hierarchy, values.device).leaf_levels
    leaf_levels = leaf_levels[:, families.order[:num_leaves]].to(dtype)
    labels = [torch.empty(height, widths[2], dtype=dtype) for _ in range(hierarchy.num_levels)]
    rows = max(1, band_values // (hierarchy.num_nodes * widths[2]))
    block = max(_MIN_ROWS, _BLOCK_VALUES // (hierarchy.num_nodes * widths[2]))
    for top in range(0, height, block):
        band = range(top, min(top + block, height))
        needed = rows_needed(row_steps, band)
        narrow = values[:, needed.start : needed.stop].index_select(0, families.order)
        wide = resize_columns(narrow, *widths)
        for start in range(band.start, band.stop, rows):
            stop = min(start + rows, band.stop)
            part = resize_row_range(wide, row_steps, range(start, stop), needed.start)
            place = _best_leaves(part, families, num_leaves, sigmoid=sigmoid, paths=paths)
            for level, nodes in zip(labels, leaf_levels, strict=True):
                level[start:stop] = nodes.index_select(0, place.flatten()).view(place.shape)
    return labels


def _best_leaves(
    values: Tensor, families: Families, num_leaves: int, *, sigmoid: bool, paths: bool
) -> Tensor:
    """Return the place of the best leaf of each pixel: (N, H, W) -> int64 (H, W)."""
    best = torch.cat(
        [
            values[start : start + count * size].unflatten(0, (count, size)).amax(1)
            for start, count, size in families.blocks
        ]
    )
    if paths:
        inner = values[num_leaves:]
        if sigmoid:
            best, inner = best.sigmoid_(), inner.sigmoid()
        inner = torch.cat([inner, torch.zeros_like(values[:1])])
        best.mul_(families.levels)
        for above in families.above:
            best += inner.index_select(0, above)
    members = families.members.index_select(1, best.flatten(1).max(0)[1])
    chosen = values.flatten(1).gather(0, members).max(0, keepdim=True)[1]
    return members.gather(0, chosen).view(values.shape[1:])
