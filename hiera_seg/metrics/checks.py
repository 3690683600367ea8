"""Validate the maps that metrics are computed from."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from hiera_seg.hierarchy import Hierarchy


def check_shapes(maps: Iterable[Any], truth: Any, what: str) -> None:
    """Raise ValueError if a map, named by `what`, has another shape than the ground truth."""
    for values in maps:
        if values.shape != truth.shape:
            size, expected = (" x ".join(map(str, x.shape)) for x in (values, truth))
            raise ValueError(f"{what} has size {size}, but the ground truth {expected}")


def check_ids(ids: np.ndarray, stop: int, hierarchy: Hierarchy, what: str) -> None:
    """Raise ValueError if the ids of a map, named by `what`, are not in 0 .. stop - 1."""
    if ids.size and not (0 <= ids.min() and ids.max() < stop):
        raise ValueError(
            f"{what} holds ids {ids.min()} to {ids.max()}; tree {hierarchy.name!r} allows 0 to "
            f"{stop - 1}"
        )
