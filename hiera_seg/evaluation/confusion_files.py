"""Write and read the confusion matrix of a level, ``confusion_<level>.npz`` (docs/metrics.md)."""

import os
from collections.abc import Sequence
from functools import partial
from zipfile import BadZipFile

import numpy as np

from hiera_seg.disk import replace_file
from hiera_seg.errors import DatasetError
from hiera_seg.metrics import Cells

# The errors raised for a damaged npz file, or for one with other content.
UNREADABLE = (OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, BadZipFile)
_MAX_DENSE_CLASSES = 2048  # above, a file holds the nonzero cells of its matrices


def write_confusion(
    path: str | os.PathLike, classes: Sequence[str], merged: Cells, direct: Cells | None
) -> None:
    """Write the matrices of a level with K classes, of shape (K + 1, K), atomically."""
    arrays = {
        **_arrays("matrix", merged),
        "classes": np.array(classes),
        "rows": np.array("predicted class; the last row: predictions above this level"),
        "columns": np.array("true class"),
    }
    if direct is not None:
        arrays |= _arrays("direct_matrix", direct)
    replace_file(path, partial(np.savez_compressed, **arrays))


def read_confusion(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """Read the merged matrix of a level.

    Returns:
        int64 (K + 1, K), pixels by [predicted, true class], and the names of the K classes.

    Raises:
        DatasetError: the file cannot be read, or has no such matrix.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            classes = arrays["classes"].tolist()
            shape = (len(classes) + 1, len(classes))
            if "matrix_cells" in arrays:
                return Cells(shape, *arrays["matrix_cells"]).matrix, classes
            matrix = arrays["matrix"].astype(np.int64)
    except UNREADABLE as error:
        raise DatasetError(
            f"{path} cannot be read ({type(error).__name__}: {error}); evaluate again"
        ) from error
    if matrix.shape != shape:
        raise DatasetError(
            f"{path}: matrix of shape {matrix.shape} for {len(classes)} classes; evaluate again"
        )
    return matrix, classes


def _arrays(name: str, cells: Cells) -> dict[str, np.ndarray]:
    if cells.shape[1] <= _MAX_DENSE_CLASSES:
        return {name: cells.matrix}
    return {f"{name}_cells": np.stack([cells.rows, cells.columns, cells.counts])}
