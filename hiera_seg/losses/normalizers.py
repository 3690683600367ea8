"""Compute the normalizers of losses: the numbers of pixels that they divide by."""

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.losses.checks import check_labels, check_not_negative, check_number, tree_text
from hiera_seg.losses.labels import LabelledLogits, label_index, pixels_per_label


def valid_pixels(labels: Tensor, hierarchy: Hierarchy, ignore_label: int = 255) -> Tensor:
    """Count the pixels that the losses average over.

    Summed over all processes and divided by their number, this is the `valid_count` with which the
    mean of the processes' gradients is the gradient of one process with the whole batch.

    Args:
        labels: (B, H, W) int64 node ids.
        hierarchy: the tree.
        ignore_label: the value of void.

    Returns:
        float32 (1 + num_levels,): pixels that are not void, then for each level, coarse to fine,
        the pixels whose label reaches it.

    Raises:
        ValueError: as the losses do for labels.
    """
    check_labels(labels)
    index = label_index(labels, hierarchy, ignore_label)
    return _count_pixels(index, pixels_per_label(index, hierarchy), hierarchy)


def pixel_normalizer(valid_count: float | Tensor | None, batch: LabelledLogits) -> Tensor:
    """Return the normalizer, a float32 scalar, of a loss that averages over all pixels but void.

    It is `valid_count`, one number; None to count the pixels of the batch.
    """
    if valid_count is None:
        if batch.pixels is not None:
            return batch.pixels[:-1].sum().float()
        return (batch.index < batch.hierarchy.num_nodes).sum().float()
    normalizer = _as_normalizer(valid_count, batch.index.device)
    if normalizer.dim() != 0:
        raise ValueError(
            f"valid_count has shape {tuple(normalizer.shape)}; it must be one number: the pixels "
            "that are not void"
        )
    return normalizer


def level_normalizers(valid_count: float | Tensor | None, batch: LabelledLogits) -> Tensor:
    """Return the normalizers, float32 (num_levels,), of a loss that averages per level.

    They are `valid_count`, one number for all levels or one per level; None to count the pixels of
    the batch whose label reaches the level.
    """
    if valid_count is None:
        return _count_pixels(batch.index, batch.pixels, batch.hierarchy)[1:]
    normalizers, hierarchy = _as_normalizer(valid_count, batch.index.device), batch.hierarchy
    if normalizers.shape not in ((), (hierarchy.num_levels,)):
        raise ValueError(
            f"valid_count has shape {tuple(normalizers.shape)}; it must be one number, or one for "
            f"each of the {hierarchy.num_levels} levels of {tree_text(hierarchy)}"
        )
    return normalizers.expand(hierarchy.num_levels)


def reciprocal_or_zero(normalizer: Tensor) -> Tensor:
    """Return 1 / normalizer, and 0 where there is nothing to average."""
    tiny = torch.finfo(normalizer.dtype).tiny
    return torch.where(normalizer > 0, 1 / normalizer.clamp(min=tiny), 0.0)


def _count_pixels(index: Tensor, pixels: Tensor | None, hierarchy: Hierarchy) -> Tensor:
    tree = TreeIndex.of(hierarchy, index.device)
    reached = torch.stack([level.reached for level in tree.levels])
    reached = reached.index_select(1, index.flatten()) if pixels is None else reached * pixels
    counts = reached.sum(1)
    return torch.cat([counts[:1], counts]).float()


def _as_normalizer(valid_count: float | Tensor, device: torch.device) -> Tensor:
    if not isinstance(valid_count, Tensor):
        check_number("valid_count", valid_count, minimum=0)
        return torch.full((), float(valid_count), device=device)
    normalizer = valid_count.detach().to(device, torch.float32)
    check_not_negative("valid_count", normalizer)
    return normalizer
