"""Run tree_min and bce on a GPU in one kernel that reads logits and writes gradients once.

It needs Triton, which is part of PyTorch's builds for CUDA and is imported when a loss first runs
on a GPU. Values and gradients equal those of the tiled version except for exact ties: if several
children attain the maximum of their parent, the kernel passes the gradient to the first of them,
whereas the tiled version divides it equally.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.losses.fused.tiles import strides

if TYPE_CHECKING:
    from hiera_seg.losses.fused.node_terms import NodeTerms

# If this is set to 0, losses on GPUs run on PyTorch's own kernels.
TRITON_VARIABLE = "HIERA_SEG_TRITON"
_BLOCK = 256  # pixels per program
_MAX_LEVELS = 15  # a program holds one row of maxima per level in registers
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fits(logits: Tensor, hierarchy: Hierarchy) -> bool:
    """Return whether the kernel supports these logits and this tree."""
    return (
        logits.is_cuda
        and hierarchy.num_levels <= _MAX_LEVELS
        and logits.dtype in _DTYPES
        and os.environ.get(TRITON_VARIABLE) != "0"
        and importlib.util.find_spec("triton") is not None
    )


def launch(terms: NodeTerms, logits: Tensor, index: Tensor, gradient: Tensor | None) -> Tensor:
    """Sum all terms of a batch and write the gradient.

    Args:
        terms: the terms to sum.
        logits: (B, N, H, W) of one of the kernel's dtypes, with any strides.
        index: int64 (B, H, W), N for void.
        gradient: as from `new_gradient`; None if it is not needed.

    Returns:
        Scalar, float32.
    """
    import triton

    from hiera_seg.losses.fused.triton_kernel import node_kernel

    if gradient is not None and strides(logits) != strides(gradient):
        logits = torch.empty_like(gradient).copy_(logits)
    elif strides(logits) is None:
        logits = logits.contiguous()
    batch, num_nodes, height, width = logits.shape
    num_pixels = height * width
    blocks = triton.cdiv(num_pixels, _BLOCK)
    partial = torch.empty(batch, blocks, dtype=torch.float32, device=logits.device)
    if partial.numel() == 0:
        return partial.sum()
    gamma, num_levels = terms.gamma, terms.hierarchy.num_levels
    tree, weight = TreeIndex.of(terms.hierarchy, logits.device), terms.weight
    if weight is None:
        weight = torch.ones(num_nodes, device=logits.device)
    # Triton launches on the current device, not on that of the tensors.
    with torch.cuda.device_of(logits):
        # Blocks first: only the first axis of a grid may be longer than 65535.
        node_kernel[(blocks, batch)](
            logits,
            index.contiguous(),
            logits if gradient is None else gradient,
            partial,
            *tree.children_first,
            weight.float(),
            tree.path.int(),
            torch.where(tree.off_path, 0.0, weight[tree.path]).float(),
            num_pixels,
            num_nodes,
            *strides(logits),
            gamma,
            GAMMA=gamma if gamma in (0, 2) else -1,
            CONSISTENT=terms.consistent,
            WANTS_GRADIENT=gradient is not None,
            LEVELS=num_levels,
            DEPTHS=triton.next_power_of_2(num_levels + 1),
            BLOCK=_BLOCK,
        )
    return partial.sum()
