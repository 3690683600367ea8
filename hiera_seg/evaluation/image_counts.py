"""Save the pixel counts of each image of an evaluation, for comparisons of runs."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hiera_seg.disk import replace_file
from hiera_seg.errors import DatasetError
from hiera_seg.evaluation.confusion_files import UNREADABLE
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import Cells, index_at_level

FILE_NAME = "image_counts.npz"


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of each image by predicted and true node.

    Attributes:
        dataset: name of the test set.
        hierarchy: the tree with N nodes.
        images: M file names below the folder that they share, sorted.
        unscored: ids of the leaves that are excluded from the means.
        image, predicted, true, pixels: int64 (cells,), the index of the image, predicted node (N if
            there is none), true node, and the number of these pixels.
    """

    dataset: str
    hierarchy: Hierarchy
    images: tuple[str, ...]
    unscored: tuple[int, ...]
    image: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(
        cls,
        dataset: str,
        hierarchy: Hierarchy,
        found: Sequence[tuple[str, Cells]],
        unscored: Sequence[int] = (),
    ) -> "ImageCounts":
        """Collect the file name and the cells of :meth:`PathCounts.add` of each image."""
        found = sorted(found, key=lambda pair: os.fspath(pair[0]))
        names = [os.fspath(name) for name, _ in found]
        folder = os.path.commonprefix(names).rfind("/") + 1
        cells = [part for _, part in found] or [Cells.empty((0, 0))]
        return cls(
            dataset,
            hierarchy,
            tuple(name[folder:] for name in names),
            tuple(unscored),
            np.repeat(np.arange(len(cells)), [len(part.counts) for part in cells]),
            np.concatenate([part.rows for part in cells]),
            np.concatenate([part.columns for part in cells]),
            np.concatenate([part.counts for part in cells]),
        )

    def class_totals(self, level: int) -> np.ndarray:
        """Return the pixels of each class of a level in each image.

        Returns:
            float64 (3, M, K): those that are correct, of the ground truth, and of the prediction.
        """
        index = index_at_level(self.hierarchy, level)
        size = len(self.hierarchy.level_nodes(level))
        predicted, true = index[self.predicted], index[self.true]
        known = true < size
        totals = np.zeros((3, len(self.images), size + 1))
        for total, classes, kept in zip(
            totals,
            (true, true, predicted),
            (known & (predicted == true), known, known),
            strict=True,
        ):
            np.add.at(total, (self.image[kept], classes[kept]), self.pixels[kept])
        return totals[..., :size]

    def truth(self) -> Cells:
        """Return the pixels by [image, true node]."""
        shape = (len(self.images), self.hierarchy.num_nodes)
        return Cells.total([Cells(shape, self.image, self.true, self.pixels)])

    def save(self, path: str | os.PathLike) -> None:
        """Write the file ``image_counts.npz`` (docs/metrics.md), atomically."""
        header = {
            "dataset": self.dataset,
            "hierarchy": self.hierarchy.to_dict(),
            "images": self.images,
            "unscored": self.unscored,
        }
        arrays = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "cells_per_image": _smallest(np.bincount(self.image, minlength=len(self.images))),
            "predicted": _smallest(self.predicted),
            "true": _smallest(self.true),
            "pixels": _smallest(self.pixels),
        }
        replace_file(path, partial(np.savez_compressed, **arrays))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ImageCounts":
        """Read a file written by :meth:`save`.

        Raises:
            DatasetError: it does not exist, or cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header: dict[str, Any] = json.loads(arrays["header"].tobytes())
                cells = [arrays[name].astype(np.int64) for name in ("predicted", "true", "pixels")]
                numbers = arrays["cells_per_image"].astype(np.int64)
            hierarchy = Hierarchy.from_dict(**header["hierarchy"])
            images, unscored = tuple(header["images"]), tuple(header["unscored"])
            limits = (hierarchy.num_nodes + 1, hierarchy.num_nodes)
            fits = all((part < limit).all() for part, limit in zip(cells, limits, strict=False))
            lengths = {numbers.sum(), *map(len, cells)}
            if not fits or len(lengths) > 1 or len(numbers) != len(images):
                raise ValueError("its arrays do not fit its images and its tree")
            return cls(
                header["dataset"], hierarchy, images, unscored,
                np.repeat(np.arange(len(images)), numbers), *cells,
            )  # fmt: skip
        except FileNotFoundError:
            raise DatasetError(f"{path}: file not found; evaluate the run again") from None
        except UNREADABLE as error:
            raise DatasetError(
                f"{path}: cannot be read ({type(error).__name__}: {error}); evaluate the run again"
            ) from error


def _smallest(values: np.ndarray) -> np.ndarray:
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
