"""Draw label maps from annotated regions, polygons and run-length encodings, and encode them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from hiera_seg.errors import DatasetError

_MIN_NUMBERS = 6  # of a polygon: three points; pycocotools reads four numbers as a box


class RegionLabels(str):
    """The label map of one image, which is drawn when it is read.

    It takes the place of a label file's path in a dataset's dicts. As a string it is
    "<annotation file>/<image>", which messages show and converters derive file names from.
    """

    size: tuple[int, int]  # (height, width) of the image in pixels
    regions: list[tuple[str, int, Any]]  # (description, node id, segmentation in COCO's form)
    fill: int  # value of the pixels outside all regions
    dtype: str  # of the label map

    @classmethod
    def of(
        cls,
        text: str,
        size: tuple[int, int],
        regions: Sequence[tuple[str, int, Any]],
        fill: int,
        dtype: str,
    ) -> "RegionLabels":
        """Create the label map of an image; the arguments are the attributes."""
        self = cls(text)  # a str with attributes is pickled and copied with them
        self.size, self.regions, self.fill, self.dtype = size, list(regions), fill, dtype
        return self

    def read(self) -> np.ndarray:
        """Draw the regions from the largest to the smallest.

        Returns:
            (H, W) of `dtype`. Of regions with equal areas, the later one is on top.

        Raises:
            DatasetError: a segmentation cannot be decoded, or is of another size than the image.
        """
        labels = np.full(self.size, self.fill, self.dtype)
        encoded = [(node, self._encode(what, shape)) for what, node, shape in self.regions]
        encoded = [(int(mask_util.area(rle)), node, rle) for node, rle in encoded if rle]
        for _, node, rle in sorted(encoded, key=lambda region: -region[0]):
            labels[mask_util.decode(rle).astype(bool)] = node
        return labels

    def _encode(self, what: str, segmentation: Any) -> dict[str, Any] | None:
        """Return COCO's compressed encoding of a region; None for polygons without an area."""
        height, width = self.size
        try:
            if isinstance(segmentation, list):
                if any(len(polygon) % 2 for polygon in segmentation):
                    raise ValueError("a polygon has an odd number of coordinates")
                polygons = [p for p in segmentation if len(p) >= _MIN_NUMBERS]
                if not polygons:
                    return None
                return mask_util.merge(mask_util.frPyObjects(polygons, height, width))
            if list(segmentation["size"]) != [height, width]:
                h, w = segmentation["size"]
                raise ValueError(f"its size is {w}x{h}, the image is {width}x{height}")
            counts = segmentation["counts"]
            if not isinstance(counts, list):
                mask_util.decode(segmentation)  # raises unless it fills the image exactly
                return segmentation
            if min(counts, default=0) < 0 or sum(counts) != height * width:
                raise ValueError(
                    f"its counts add up to {sum(counts)} pixels, the image has {height * width}"
                )
            return mask_util.frPyObjects(segmentation, height, width)
        except Exception as error:  # pycocotools raises errors of many types
            raise DatasetError(
                f"{self}: {what}: the segmentation cannot be decoded: "
                f"{type(error).__name__}: {error}"
            ) from error


def encode_labels(labels: np.ndarray) -> dict[int, dict[str, Any]]:
    """Encode the regions of a label map, (H, W) integers.

    Returns:
        {label: {"size": [H, W], "counts": str}} for the labels that occur, ascending; plain data
        for JSON and for ``pycocotools.mask.decode``.
    """
    encoded = {}
    for label in np.unique(labels).tolist():
        rle = mask_util.encode(np.asfortranarray(labels == label, dtype=np.uint8))
        encoded[label] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    return encoded
