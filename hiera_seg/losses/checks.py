"""Checks of what a loss is given, and the number of pixels it averages over."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy

NORMALIZATIONS = ("level_mean", "node_mean", "sum")
# With this set to 1, labels on CUDA are checked in full, at the price of waiting for the device.
CHECK_VARIABLE = "HIERA_SEG_CHECK"


def tree_text(hierarchy: Hierarchy) -> str:
    """How errors name a tree."""
    return f"tree {hierarchy.name!r} ({hierarchy.num_nodes} nodes)"


def check_normalize(normalize: str) -> None:
    """Raise ValueError for a `normalize` that is not one of `NORMALIZATIONS`."""
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"unknown normalize {normalize!r}; it must be one of {NORMALIZATIONS}")


def check_number(name: str, value: float, *, minimum: float = -math.inf) -> None:
    """Raise ValueError for an option that is not a finite number of at least `minimum`."""
    if not isinstance(value, numbers.Real) or not minimum <= value < math.inf:
        least = "" if minimum == -math.inf else f", {minimum:g} or more"
        raise ValueError(f"{name} must be a finite number{least}, not {value!r}")


def check_logits(logits: Tensor, labels: Tensor, hierarchy: Hierarchy) -> None:
    """Check that logits have a channel for each node, and labels the size of the logits.

    Raises:
        ValueError: naming what was found and what is needed.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() != 4:
        raise ValueError(
            f"logits must be a floating-point tensor (B, N, H, W), not {describe(logits)}"
        )
    if logits.shape[1] != hierarchy.num_nodes:
        raise ValueError(
            f"logits have {logits.shape[1]} channels, but {tree_text(hierarchy)} needs "
            f"{hierarchy.num_nodes}, one channel a node"
        )
    check_labels(labels)
    size = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != size:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but logits {tuple(logits.shape)} need "
            f"labels {size}: resize the logits to the labels first"
        )
    _check_device(labels, logits, "logits")


def check_embeddings(embeddings: Tensor, labels: Tensor) -> None:
    """Check embeddings (B, D, h, w) and labels (B, H, W) of any size.

    Raises:
        ValueError: naming what was found and what is needed.
    """
    if (
        not isinstance(embeddings, Tensor)
        or not embeddings.is_floating_point()
        or embeddings.dim() != 4
    ):
        raise ValueError(
            f"embeddings must be a floating-point tensor (B, D, h, w), not {describe(embeddings)}"
        )
    if embeddings.shape[1] == 0:
        raise ValueError(f"embeddings have no channel: {describe(embeddings)}")
    check_labels(labels)
    if labels.shape[0] != embeddings.shape[0]:
        raise ValueError(
            f"labels hold {labels.shape[0]} images, embeddings {embeddings.shape[0]}: both need "
            "the same batch"
        )
    _check_device(labels, embeddings, "embeddings")


def check_labels(labels: Tensor) -> None:
    """Check that labels are a tensor of integers (B, H, W).

    Raises:
        ValueError: naming what was found.
    """
    whole = isinstance(labels, Tensor) and not (
        labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    )
    if not whole or labels.dim() != 3:
        raise ValueError(
            f"labels must be an int64 tensor (B, H, W) of node ids, not {describe(labels)}"
        )


def _check_device(labels: Tensor, values: Tensor, what: str) -> None:
    if labels.device != values.device:
        raise ValueError(
            f"labels are on {labels.device}, {what} on {values.device}: move them together"
        )


def describe(value: object) -> str:
    """How errors name a value of the wrong kind."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def label_index(labels: Tensor, hierarchy: Hierarchy, ignore_label: int) -> Tensor:
    """Replace void by N, so that tables of N + 1 columns can be read by label.

    Labels on a CPU are checked here. On CUDA the check is an assertion that the device makes
    without the host waiting for it; with the environment variable HIERA_SEG_CHECK=1 the host
    waits and the error is the same as on a CPU.

    Args:
        labels: (B, H, W) int64 node ids; other integer types are converted.
        hierarchy: the tree.
        ignore_label: the value of void; not a node id.

    Returns:
        int64 tensor of the same shape, values 0 .. N. A new tensor.

    Raises:
        ValueError: `ignore_label` is a node id, or a label is neither a node id nor void.
    """
    num_nodes = hierarchy.num_nodes
    if 0 <= ignore_label < num_nodes:
        raise ValueError(
            f"ignore_label {ignore_label} is node {hierarchy.paths[ignore_label]!r} of "
            f"{tree_text(hierarchy)}; choose a value outside [0, {num_nodes})"
        )
    labels = labels.long()
    index = torch.where(labels == ignore_label, num_nodes, labels)
    # A label of N itself would pass for void after the replacement.
    wrong = (labels == num_nodes) & (ignore_label != num_nodes)
    wrong = wrong | (index < 0) | (index > num_nodes)
    if labels.is_cuda and os.environ.get(CHECK_VARIABLE) != "1":
        _assert_on_device(
            ~wrong.any(),
            f"a label is neither a node id of {tree_text(hierarchy)} nor the ignore label "
            f"{ignore_label}; set {CHECK_VARIABLE}=1 to see the value",
        )
    elif wrong.any():
        values = labels[wrong].unique()
        shown = ", ".join(str(value) for value in values[:8].tolist())
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        raise ValueError(
            f"labels hold {shown}{more}: neither a node id of {tree_text(hierarchy)}, "
            f"0 .. {num_nodes - 1}, nor the ignore label {ignore_label}"
        )
    return index


def _assert_on_device(condition: Tensor, message: str) -> None:
    if "msg" in torch.ops.aten._assert_async.overloads():
        torch._assert_async(condition, message)
    else:  # torch 2.0
        torch._assert_async(condition)


@lru_cache(maxsize=64)
def _levels_reached(hierarchy: Hierarchy, device: torch.device) -> Tensor:
    """int64 (N + 1,): how many levels a label of each node reaches; 0 for void."""
    with torch.inference_mode(False):
        reached = torch.tensor((hierarchy.level_ancestor >= 0).sum(0), device=device)
        return torch.cat([reached, reached.new_zeros(1)])


def count_index(index: Tensor, hierarchy: Hierarchy) -> Tensor:
    """`valid_pixels` of labels that went through `label_index`."""
    reached = _levels_reached(hierarchy, index.device)
    if index.device.type == "cpu":  # on a GPU bincount waits for the device
        pixels = torch.bincount(index.flatten(), minlength=hierarchy.num_nodes + 1)
    else:
        reached, pixels = reached.index_select(0, index.flatten()), 1
    counts = [((reached > level) * pixels).sum() for level in range(hierarchy.num_levels)]
    return torch.stack([counts[0], *counts]).float()


def valid_pixels(labels: Tensor, hierarchy: Hierarchy, ignore_label: int = 255) -> Tensor:
    """Count the pixels that the losses average over.

    Summed over all processes and divided by their number, this is the `valid_count` with which
    each process's gradient averages to that of one process with the whole batch.

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
    return count_index(label_index(labels, hierarchy, ignore_label), hierarchy)


def level_counts(valid_count: float | Tensor | None, index: Tensor, hierarchy: Hierarchy) -> Tensor:
    """The denominators of a loss that averages at each level over the pixels that reach it.

    Args:
        valid_count: None to count `index`, one number for all levels, or one a level.
        index: labels that went through `label_index`.
        hierarchy: the tree.

    Returns:
        float32 (num_levels,).
    """
    if valid_count is None:
        return count_index(index, hierarchy)[1:]
    count = _as_count(valid_count, index.device)
    if count.shape not in ((), (hierarchy.num_levels,)):
        raise ValueError(
            f"valid_count has shape {tuple(count.shape)}; it must be one number, or one for each "
            f"of the {hierarchy.num_levels} levels of {tree_text(hierarchy)}"
        )
    return count.expand(hierarchy.num_levels)


def pixel_count(valid_count: float | Tensor | None, index: Tensor, hierarchy: Hierarchy) -> Tensor:
    """The denominator of a loss that averages over all pixels that are not void.

    Args:
        valid_count: None to count `index`, or one number.
        index: labels that went through `label_index`.
        hierarchy: the tree.

    Returns:
        float32 scalar.
    """
    if valid_count is None:
        return (index != hierarchy.num_nodes).sum().float()
    count = _as_count(valid_count, index.device)
    if count.dim() != 0:
        raise ValueError(
            f"valid_count has shape {tuple(count.shape)}; it must be one number: the pixels that "
            "are not void"
        )
    return count


def _as_count(valid_count: float | Tensor, device: torch.device) -> Tensor:
    if not isinstance(valid_count, Tensor):
        check_number("valid_count", valid_count, minimum=0)
        return torch.full((), float(valid_count), device=device)
    count = valid_count.detach().to(device, torch.float32)
    _check_not_negative("valid_count", count)
    return count


def _check_not_negative(name: str, values: Tensor) -> None:
    """Check that all values are finite and 0 or more; on CUDA as `label_index` checks labels."""
    right = (values >= 0) & (values < math.inf)
    if values.is_cuda and os.environ.get(CHECK_VARIABLE) != "1":
        _assert_on_device(
            right.all(),
            f"{name} must be finite and 0 or more; set {CHECK_VARIABLE}=1 for its value",
        )
    elif not right.all():
        found = values[~right].flatten()[0].item()
        raise ValueError(f"{name} must be finite and 0 or more, found {found:g}")


def as_node_weights(weights: object, hierarchy: Hierarchy, like: Tensor) -> Tensor:
    """Weights of nodes as a tensor (N,) without gradient, of the type and device of another.

    Raises:
        ValueError: not one weight per node, or one that is not finite and 0 or more (on CUDA a
            device assertion; see `label_index`).
    """
    try:
        weights = torch.as_tensor(weights, dtype=like.dtype, device=like.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"node_weights must be numbers, one per node: {error}") from error
    if weights.shape != (hierarchy.num_nodes,):
        raise ValueError(
            f"node_weights have shape {tuple(weights.shape)}; {tree_text(hierarchy)} needs "
            f"({hierarchy.num_nodes},), one weight per node"
        )
    _check_not_negative("node_weights", weights)
    return weights


def register_node_weights(module: nn.Module, weights: Sequence[float] | None) -> None:
    """Keep weights in a module with a ``hierarchy``, so that they move with it; not in its state.

    Raises:
        ValueError: as `as_node_weights`.
    """
    if weights is not None:
        weights = as_node_weights(weights, module.hierarchy, torch.zeros(()))
    module.register_buffer("node_weights", weights, persistent=False)


def reciprocal_or_zero(count: Tensor) -> Tensor:
    """1 / count, and 0 where there is nothing to average."""
    return torch.where(count > 0, 1 / count.clamp(min=torch.finfo(count.dtype).tiny), 0.0)
