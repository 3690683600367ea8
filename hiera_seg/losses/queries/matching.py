"""Match each segment with one query at the lowest total cost (the Hungarian algorithm)."""

import logging
from functools import lru_cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def match(costs: Tensor) -> Tensor:
    """Match the queries and segments of one image by SciPy, separately per layer.

    Costs that are not finite are replaced by a number above the highest finite cost, with a warning
    the first time.

    Args:
        costs: (A, Q, S) float, for A layers.

    Returns:
        int64 (A, 2, K) on the CPU, K = min(Q, S): matched queries and their segments, in ascending
        order of segments.
    """
    # Importing SciPy takes half a second, and inference does not need it.
    from scipy.optimize import linear_sum_assignment

    costs = costs.detach().double().cpu()
    finite = costs.isfinite()
    if not finite.all():
        _warn_once()
        highest = costs[finite].max() if finite.any() else costs.new_zeros(())
        costs = torch.where(finite, costs, highest + highest.abs().clamp(min=1))
    matched = []
    for cost in costs.transpose(1, 2).numpy():  # segments first: SciPy sorts by rows
        segments, queries = linear_sum_assignment(cost)
        matched.append(torch.stack([torch.as_tensor(queries), torch.as_tensor(segments)]))
    return torch.stack(matched).long()


@lru_cache
def _warn_once() -> None:
    logger.warning(
        "Costs of matching queries with segments are not finite: a mask or class logit is infinite "
        "or NaN. If the loss is not finite either, lower SOLVER.BASE_LR or set "
        "SOLVER.CLIP_GRADIENTS. This warning is shown once."
    )
