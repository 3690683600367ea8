"""Counting the pixels of every node over datasets."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hiera_seg.data.check import check_dataset
from hiera_seg.errors import DatasetError


@dataclass
class NodeCounts:
    """Pixels of the labels of some datasets.

    Attributes:
        pixels: by path of the node, labelled with the node itself.
        void: labelled as void.
        images: that were counted.
    """

    pixels: dict[str, int] = field(default_factory=dict)
    void: int = 0
    images: int = 0


def count_nodes(names: Sequence[str], *, progress: bool = False, exif: str = "apply") -> NodeCounts:
    """Count the labels of registered datasets, whose nodes are the same where their paths are.

    Args:
        names: of datasets with class trees; images are not decoded.
        progress: show a bar on stderr, where that is a terminal.
        exif: as INPUT.EXIF, for the comparison of sizes.

    Raises:
        DatasetError: a dataset has no tree, or files that are missing or can not be used.
    """
    total = NodeCounts()
    for name in names:
        report = check_dataset(name, quick=True, progress=progress, exif=exif)
        if report.file_problems:
            more = len(report.file_problems) - 1
            raise DatasetError(
                f"dataset {name!r}: {report.file_problems[0]}"
                + (f" (and {more} more; tools/check_dataset.py lists them)" if more else "")
            )
        for path, count in zip(report.hierarchy.paths, report.node_pixels.tolist(), strict=True):
            total.pixels[path] = total.pixels.get(path, 0) + count
        total.void += report.void_pixels
        total.images += report.num_images
    return total
