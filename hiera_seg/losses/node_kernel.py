"""tree_min and bce on a GPU: one kernel that reads logits once and writes gradients once.

Needs Triton, which comes with PyTorch's builds for CUDA; it is imported when a loss first runs on
a GPU. The arithmetic is that of `node_terms`, and so are value and gradient, but for children that
tie exactly for the maximum of their parent: there they share its gradient, here the first takes it.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses.tiles import layout

# With this set to 0, losses on GPUs run on PyTorch's own kernels.
TRITON_VARIABLE = "HIERA_SEG_TRITON"
_BLOCK = 256  # pixels of a program
_MAX_LEVELS = 15  # a program holds a row of maxima a level in registers
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class _Order(NamedTuple):
    """Nodes, children before parents; int32 (N,) each, the last two by node."""

    nodes: Tensor
    depth: Tensor
    is_inner: Tensor


def fits(logits: Tensor, hierarchy: Hierarchy) -> bool:
    """Whether the kernel takes these logits and this tree."""
    return (
        logits.is_cuda
        and hierarchy.num_levels <= _MAX_LEVELS
        and logits.dtype in _DTYPES
        and os.environ.get(TRITON_VARIABLE) != "0"
        and importlib.util.find_spec("triton") is not None
    )


@lru_cache(maxsize=64)
def _children_first(hierarchy: Hierarchy, device: torch.device) -> _Order:
    nodes: list[int] = []

    def visit(node: int) -> None:
        for child in hierarchy.children(node):
            visit(int(child))
        nodes.append(node)

    for root in (int(v) for v in hierarchy.level_nodes(0)):
        visit(root)
    inner = [len(hierarchy.children(v)) > 0 for v in range(hierarchy.num_nodes)]
    with torch.inference_mode(False):
        return _Order(
            *(
                torch.tensor(values, dtype=torch.int32, device=device)
                for values in (nodes, hierarchy.depth.tolist(), inner)
            )
        )


def fused_sum(
    logits: Tensor,
    index: Tensor,
    gradient: Tensor | None,
    *,
    hierarchy: Hierarchy,
    path: Tensor,
    positive: Tensor,
    negative: Tensor,
    gamma: float,
    consistent: bool,
) -> Tensor:
    """Sum of all terms of a batch; writes the gradient.

    Args:
        logits: (B, N, H, W) of one of the kernel's types, of any `layout` but None.
        index: int64 (B, H, W), N for void.
        gradient: of the `layout` and type of the logits; None where nobody wants one.
        path, positive, negative, gamma, consistent: as for `node_terms._tile_terms`.

    Returns:
        Scalar, float32.
    """
    import triton

    from hiera_seg.losses.node_kernel_triton import node_kernel

    order = _children_first(hierarchy, logits.device)
    batch, num_nodes, height, width = logits.shape
    num_pixels = height * width
    blocks = triton.cdiv(num_pixels, _BLOCK)
    partial = torch.empty(batch, blocks, dtype=torch.float32, device=logits.device)
    if partial.numel() == 0:
        return partial.sum()
    num_levels = hierarchy.num_levels
    # Triton launches on the current device, whatever the tensors lie on.
    with torch.cuda.device_of(logits):
        # Blocks first: only the first axis of a grid may be longer than 65535.
        node_kernel[(blocks, batch)](
            logits,
            index.contiguous(),
            logits if gradient is None else gradient,
            partial,
            *order,
            negative.float().contiguous(),
            path.int().contiguous(),
            positive.float().contiguous(),
            num_pixels,
            num_nodes,
            *layout(logits),
            gamma,
            GAMMA=gamma if gamma in (0, 2) else -1,
            CONSISTENT=consistent,
            WANTS_GRADIENT=gradient is not None,
            LEVELS=num_levels,
            DEPTHS=triton.next_power_of_2(num_levels + 1),
            BLOCK=_BLOCK,
        )
    return partial.sum()
