"""Encode label maps as COCO's run-length encoding."""

from typing import Any

import numpy as np


def encode_labels(labels: np.ndarray) -> dict[int, dict[str, Any]]:
    """Encode the regions of a label map.

    Args:
        labels: (H, W) integers.

    Returns:
        {label: {"size": [H, W], "counts": str}} for the labels that occur, ascending; plain data
        for JSON and for ``pycocotools.mask.decode``.
    """
    import pycocotools.mask as mask_util

    encoded = {}
    for label in np.unique(labels).tolist():
        rle = mask_util.encode(np.asfortranarray(labels == label, dtype=np.uint8))
        encoded[label] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    return encoded
