"""Read label maps from .npy and .mat files."""

import numpy as np
from detectron2.utils.file_io import PathManager
from scipy.io import loadmat

from hiera_seg.errors import DatasetError

ARRAY_TYPES = (".npy", ".mat")
_MAX_8_BIT, _MAX_16_BIT = 255, 65535


def is_array_file(path: object) -> bool:
    """Return whether the type of a file is one that `read_array_file` reads."""
    return str(path).lower().endswith(ARRAY_TYPES)


def read_array_file(path: str) -> np.ndarray:
    """Read the label map of a .npy file, or the only one of a .mat file (MATLAB's version 5).

    Args:
        path: the file. Pickled objects in it are refused.

    Returns:
        (H, W) uint8 or uint16; int64 if a value is outside 0..65535. A stored -1 is read as 255, or
        as 65535 if the file holds values of 255 or more, as in image files of 8 and 16 bits.

    Raises:
        DatasetError: the file is missing or damaged, or does not hold one array of integers (H, W).
    """
    try:
        with PathManager.open(path, "rb") as file:
            if path.lower().endswith(".npy"):
                arrays = {"the file": np.load(file, allow_pickle=False)}
            else:
                content = loadmat(file)
                arrays = {key: a for key, a in content.items() if isinstance(a, np.ndarray)}
    except FileNotFoundError as error:
        raise DatasetError(f"label file not found: {path}") from error
    except Exception as error:  # both readers raise errors of many types
        text = " ".join(str(error).split())
        raise DatasetError(f"cannot read {path}: {type(error).__name__}: {text}") from error
    maps = [a for a in arrays.values() if a.ndim == 2 and a.dtype.kind in "biu" and a.size]
    if len(maps) != 1:
        found = ", ".join(f"{key}: {a.dtype} {a.shape}" for key, a in arrays.items())
        raise DatasetError(
            f"label file {path}: expected one array of integers (H, W), found {found or 'none'}"
        )
    values = maps[0].astype(np.int64)
    low, high = values.min(), values.max()
    if low == -1:
        values[values == -1] = _MAX_8_BIT if high < _MAX_8_BIT else _MAX_16_BIT
        low, high = 0, values.max()
    if low < 0 or high > _MAX_16_BIT:
        return values
    return values.astype(np.uint8 if high <= _MAX_8_BIT else np.uint16)
