"""Validate the arguments of losses."""

import math
import numbers
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy

# If this is set to 1, values on CUDA are checked on the host, which has to wait for the device.
CHECK_VARIABLE = "HIERA_SEG_CHECK"


def tree_text(hierarchy: Hierarchy) -> str:
    """Describe a tree for an error message."""
    return f"tree {hierarchy.name!r} ({hierarchy.num_nodes} nodes)"


def describe(value: object) -> str:
    """Describe a value of the wrong type for an error message."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def check_number(name: str, value: float, *, minimum: float = -math.inf) -> None:
    """Raise ValueError for an option that is not a finite number of at least `minimum`."""
    if not isinstance(value, numbers.Real) or not minimum <= value < math.inf:
        least = "" if minimum == -math.inf else f", {minimum:g} or more"
        raise ValueError(f"{name} must be a finite number{least}, not {value!r}")


def check_logits(logits: Tensor, labels: Tensor, hierarchy: Hierarchy) -> None:
    """Raise ValueError unless logits have a channel per node, and labels the size of the logits."""
    _check_maps(logits, "logits", "(B, N, H, W)")
    if logits.shape[1] != hierarchy.num_nodes:
        raise ValueError(
            f"logits have {logits.shape[1]} channels, but {tree_text(hierarchy)} needs "
            f"{hierarchy.num_nodes}, one channel per node"
        )
    check_labels(labels)
    size = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != size:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but logits {tuple(logits.shape)} need "
            f"labels {size}; resize the logits to the labels first"
        )


def check_embeddings(embeddings: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless embeddings are (B, D, h, w) and labels (B, H, W), of any size."""
    _check_maps(embeddings, "embeddings", "(B, D, h, w)")
    check_labels(labels)
    if labels.shape[0] != embeddings.shape[0]:
        raise ValueError(
            f"labels hold {labels.shape[0]} images, embeddings {embeddings.shape[0]}; both need "
            "the same batch"
        )


def check_labels(labels: Tensor) -> None:
    """Raise ValueError unless labels are a tensor (B, H, W) of integers."""
    is_integer = isinstance(labels, Tensor) and not (
        labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    )
    if not is_integer or labels.dim() != 3:
        raise ValueError(
            f"labels must be an int64 tensor (B, H, W) of node ids, not {describe(labels)}"
        )


def check_not_negative(name: str, values: Tensor) -> None:
    """Raise ValueError unless all values are finite and 0 or more; see `checks_on_host`."""
    right = (values >= 0) & (values < math.inf)
    message = f"{name} must be finite and 0 or more"
    if not checks_on_host(values):
        assert_on_device(right.all(), f"{message}; set {CHECK_VARIABLE}=1 for its value")
    elif not right.all():
        raise ValueError(f"{message}, found {values[~right][0].item():g}")


def as_node_weights(
    weights: Sequence[float] | Tensor, hierarchy: Hierarchy, like: Tensor
) -> Tensor:
    """Return node weights as a tensor (N,) without gradient, with the dtype and device of `like`.

    Raises:
        ValueError: not one weight per node, or a weight that is not finite and 0 or more (on CUDA
            a device assertion; see `checks_on_host`).
    """
    weights = torch.as_tensor(weights, dtype=like.dtype, device=like.device).detach()
    if weights.shape != (hierarchy.num_nodes,):
        raise ValueError(
            f"node_weights have shape {tuple(weights.shape)}; {tree_text(hierarchy)} needs "
            f"({hierarchy.num_nodes},), one weight per node"
        )
    check_not_negative("node_weights", weights)
    return weights


def checks_on_host(values: Tensor) -> bool:
    """Return whether values are checked on the host, which has to wait for their device.

    On CUDA this is only done with the environment variable HIERA_SEG_CHECK=1. Without it the check
    is an assertion on the device, for which the host does not wait.
    """
    return not values.is_cuda or os.environ.get(CHECK_VARIABLE) == "1"


def assert_on_device(condition: Tensor, message: str) -> None:
    """Assert a condition on the device, without waiting for the result."""
    if "msg" in torch.ops.aten._assert_async.overloads():
        torch._assert_async(condition, message)
    else:  # torch 2.0
        torch._assert_async(condition)


def _check_maps(values: Tensor, name: str, shape: str) -> None:
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.dim() != 4:
        raise ValueError(f"{name} must be a floating-point tensor {shape}, not {describe(values)}")
