"""Check the maps that metrics are counted from."""

from collections.abc import Iterable

import numpy as np

from hiera_seg.hierarchy import Hierarchy


def check_shapes(maps: Iterable[np.ndarray], truth: np.ndarray, what: str) -> None:
    """Check that all maps have the shape of the ground truth.

    Raises:
        ValueError: with `what` the map is, and both shapes.
    """
    for values in maps:
        if values.shape != truth.shape:
            raise ValueError(f"{what} has shape {values.shape}, but the ground truth {truth.shape}")


def check_ids(ids: np.ndarray, stop: int, hierarchy: Hierarchy, what: str) -> None:
    """Check that node ids are in 0 .. stop - 1.

    Raises:
        ValueError: with `what` the ids are, their range and the allowed range.
    """
    if ids.size and not (0 <= ids.min() and ids.max() < stop):
        raise ValueError(
            f"{what} holds ids {ids.min()} to {ids.max()}; tree {hierarchy.name!r} allows 0 to "
            f"{stop - 1}"
        )
