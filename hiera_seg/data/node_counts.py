"""Count the pixels of every node over datasets."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.errors import DatasetError


@dataclass
class NodeCounts:
    """Hold the number of labelled pixels of some datasets."""

    pixels: dict[str, int] = field(default_factory=dict)  # by path, labelled with the node itself
    void: int = 0
    images: int = 0


def count_nodes(names: Sequence[str], *, progress: bool = False, exif: str = "apply") -> NodeCounts:
    """Count the labels of registered datasets; nodes of different trees are matched by path.

    The arguments are those of :func:`~hiera_seg.data.dataset_check.check_dataset`; images are not
    decoded.

    Raises:
        DatasetError: a dataset has no tree, or a file is missing or unusable.
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
