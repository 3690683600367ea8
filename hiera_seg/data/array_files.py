"""Read label maps from .npy and .mat files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.io import loadmat

from hiera_seg.data.open_file import open_file
from hiera_seg.errors import DatasetError

ARRAY_TYPES = (".npy", ".mat")
_MAX_8_BIT, _MAX_16_BIT = 255, 65535


def is_array_file(path: object) -> bool:
    """Return whether the type of a file is one that `read_array_file` reads."""
    return str(path).lower().endswith(ARRAY_TYPES)


def read_array_file(path: str, variable: str | None = None, *, wide: bool = False) -> np.ndarray:
    """Read the label map of a .npy file, or one of a .mat file (MATLAB's version 5).

    Args:
        path: the file. Pickled objects in it are refused.
        variable: name of the label map in a .mat file, with dots for fields of a struct
            ("GTcls.Segmentation"); None if it is the only array of integers (H, W).
        wide: whether 255 is the id of a class, so that a stored -1 is always read as 65535.

    Returns:
        (H, W) uint8 or uint16; int64 if a value is outside 0..65535. A stored -1 is read as 255, or
        as 65535 if the file holds values of 255 or more, as in image files of 8 and 16 bits.

    Raises:
        DatasetError: the file is missing or damaged, does not hold one array of integers (H, W), or
            has no such variable; the message lists the variables.
    """
    is_mat = path.lower().endswith(".mat")
    with open_file(path, "label") as file:
        if is_mat:
            try:
                arrays = _fields(loadmat(file))
            except NotImplementedError as error:
                message = f"label file {path} is of MATLAB's version 7.3; save it with '-v7'"
                raise DatasetError(message) from error
        else:
            arrays = {"the file": np.load(file, allow_pickle=False)}
    named = is_mat and variable is not None
    candidates = [array for key, array in arrays.items() if not named or key == variable]
    maps = [array for array in candidates if _is_label_map(array, "biu")]
    if is_mat and not maps:  # MATLAB stores numbers as floats unless they are converted
        maps = [array for array in candidates if _is_label_map(array, "f")]
    if len(maps) != 1:
        found = ", ".join(f"{key}: {a.dtype} {a.shape}" for key, a in arrays.items()) or "none"
        which = (
            f"an array of integers (H, W) named {variable!r}"
            if named
            else "one array of integers (H, W)"
        )
        advice = "; name it by label_variable" if len(candidates) > 1 else ""
        raise DatasetError(f"label file {path}: expected {which}, found {found}{advice}")
    values = maps[0].astype(np.int64)
    low, high = values.min(), values.max()
    if low == -1:
        values[values == -1] = _MAX_8_BIT if high < _MAX_8_BIT and not wide else _MAX_16_BIT
        low, high = 0, values.max()
    if low < 0 or high > _MAX_16_BIT:
        return values
    return values.astype(np.uint8 if high <= _MAX_8_BIT else np.uint16)


def _fields(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a .mat file by name, those in structs as "struct.field"."""
    found = {}
    for name, value in variables.items():
        if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
            fields = {f"{name}.{field}": value[field].item() for field in value.dtype.names}
            found.update(_fields(fields))
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found


def _is_label_map(values: np.ndarray, kinds: str) -> bool:
    whole = values.dtype.kind != "f" or np.array_equal(values, np.rint(values))
    return values.ndim == 2 and values.size > 1 and values.dtype.kind in kinds and whole
