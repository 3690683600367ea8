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
                points = len(segmentation) > 2 and all(np.size(p) == 2 for p in segmentation)
                if points or not all(map(_is_polygon, segmentation)):
                    raise ValueError("a polygon is not a list of numbers x1, y1, x2, y2, ...")
                polygons = [p for p in segmentation if len(p) >= _MIN_NUMBERS]
                if not polygons:
                    return None
                return mask_util.merge(mask_util.frPyObjects(polygons, height, width))
            if list(segmentation["size"]) != [height, width]:
                h, w = segmentation["size"]
                raise ValueError(f"its size is {w}x{h}, the image is {width}x{height}")
            is_plain = isinstance(segmentation["counts"], list)
            counts = segmentation["counts"] if is_plain else _run_lengths(segmentation["counts"])
            # pycocotools fills what the counts do not cover with uninitialized memory.
            if min(counts, default=0) < 0 or sum(counts) != height * width:
                raise ValueError(
                    f"its counts add up to {sum(counts)} pixels, the image has {height * width}"
                )
            return mask_util.frPyObjects(segmentation, height, width) if is_plain else segmentation
        except Exception as error:  # pycocotools raises errors of many types
            raise DatasetError(
                f"{self}: {what}: the segmentation cannot be decoded: "
                f"{type(error).__name__}: {error}"
            ) from error


def _is_polygon(values: Any) -> bool:
    points = np.asarray(values, dtype=float)
    return points.ndim == 1 and points.size % 2 == 0 and bool(np.isfinite(points).all())


def _run_lengths(counts: str | bytes) -> list[int]:
    """Return the run lengths of COCO's compressed encoding, as ``rleFrString`` of pycocotools."""
    codes = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8)
    codes = codes.astype(np.int64) - ord("0")
    if ((codes < 0) | (codes > 63)).any() or (codes[-1:] & 32).any():
        raise ValueError("its counts are not text in COCO's encoding")
    # A number has five bits per character, the lowest first, and a sixth that says "more follow".
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)[: ends.size]
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((codes & 31) << 5 * place, starts) if ends.size else codes
    runs -= (codes[ends] & 16) << 5 * (ends - starts) + 1  # the sign
    for first in (1, 2):  # from the fourth on, a number is the difference to the last but one
        runs[first::2] = runs[first::2].cumsum()
    return runs.tolist()


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
