"""Checks of the maps that metrics are counted from."""

from collections.abc import Iterable

import numpy as np

from hiera_seg.hierarchy import Hierarchy


def check_shapes(maps: Iterable[np.ndarray], truth: np.ndarray, what: str) -> None:
    """Check that all maps have the ground truth's shape.

    Raises:
        ValueError: one has not; `what` it is, and both shapes, are in the message.
    """
    for values in maps:
        if values.shape != truth.shape:
            raise ValueError(f"{what} has the shape {values.shape}, the truth {truth.shape}")


def check_ids(ids: np.ndarray, stop: int, hierarchy: Hierarchy, what: str) -> None:
    """Check that ids of nodes lie in 0 .. stop - 1.

    Raises:
        ValueError: one does not; `what` they are, and what is allowed, are in the message.
    """
    if ids.size and not (0 <= ids.min() and ids.max() < stop):
        raise ValueError(
            f"{what} holds {ids.min()} .. {ids.max()}; allowed of the tree {hierarchy.name!r} are "
            f"0 .. {stop - 1}"
        )
