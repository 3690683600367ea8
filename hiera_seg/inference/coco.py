"""Write predictions as COCO result files for pycocotools, one file per level."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hiera_seg.data.regions import encode_labels
from hiera_seg.disk import discard_pending, naming, replace_text
from hiera_seg.evaluation.parts import as_numpy
from hiera_seg.hierarchy import Hierarchy

IMAGES_FILE = "rle-images.json"


class CocoResultWriter(AbstractContextManager):
    """Write label maps as run-length encoded regions; a context manager.

    ``rle-<level>.json`` has a list of results, one per node and image, and ``rle-images.json`` the
    images and categories that they refer to::

        COCO("rle-images.json").loadRes("rle-group.json")

    Categories are nodes, with their ids. Results are written immediately; memory does not grow with
    the length of a video.
    """

    def __init__(
        self, folder: str | os.PathLike, hierarchy: Hierarchy, levels: Sequence[str] | None = None
    ):
        """
        Args:
            folder: an existing folder.
            hierarchy: the tree of the labels.
            levels: names of the levels to write; None: all.

        Raises:
            OSError: a file cannot be written.
        """
        self._hierarchy = hierarchy
        self._folder = Path(folder)
        names = hierarchy.level_names if levels is None else levels
        self._levels = {hierarchy.level_index(name): f"rle-{name}.json" for name in names}
        self._images: list[dict[str, Any]] = []
        self._files: dict[int, TextIO] = {}
        try:
            for level, name in self._levels.items():
                self._files[level] = open(self._folder / name, "w", encoding="utf-8")
                self._files[level].write("[")
        except OSError:
            self._close_files()
            raise

    def add(self, file_name: str, result: Mapping[str, Any], **extra: Any) -> None:
        """Write the regions of one image.

        Args:
            file_name: name of the image, or of the video that it is a frame of.
            result: the predictor's result: "hiera_labels", and "hiera_confidence" if the score of a
                region is to be the mean over its pixels (otherwise it is 1).
            extra: further entries of the image, such as ``frame_index``.
        """
        image_id = len(self._images) + 1
        # Encode all levels before writing any: an error must not leave a part of an image behind
        entries = {level: self._results(image_id, level, result) for level in self._files}
        height, width = result["hiera_labels"][0].shape
        self._images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width, **extra}
        )
        for level, file in self._files.items():
            for entry in entries[level]:
                self._write(file, (",\n" if file.tell() > 1 else "") + entry)

    def _write(self, file: TextIO, text: str) -> None:
        try:
            with naming(file.name):
                file.write(text)
                file.flush()
        except OSError:
            discard_pending(file)
            raise

    def _results(self, image_id: int, level: int, result: Mapping[str, Any]) -> list[str]:
        """Return the results of an image at a level, as json."""
        labels = as_numpy(result["hiera_labels"][level])
        scores = result.get("hiera_confidence")
        means = {} if scores is None else _means(labels, as_numpy(scores[level]))
        found = []
        for node, rle in encode_labels(labels).items():
            region = {"image_id": image_id, "category_id": node, "segmentation": rle}
            found.append(json.dumps({**region, "score": means.get(node, 1.0)}))
        return found

    def close(self) -> list[Path]:
        """Complete the files and return their paths; call it after an error too.

        Further calls do nothing.
        """
        for file in self._files.values():
            if not file.closed:
                self._write(file, "]\n")
        self._close_files()
        h = self._hierarchy
        categories = []
        for node in range(h.num_nodes):
            category = {"id": node, "name": h.paths[node]}
            if h.parent[node] >= 0:
                category["supercategory"] = h.paths[h.parent[node]]
            categories.append(category)
        content = {"images": self._images, "categories": categories, "annotations": []}
        replace_text(self._folder / IMAGES_FILE, json.dumps(content))
        return [self._folder / name for name in (*self._levels.values(), IMAGES_FILE)]

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _means(labels: np.ndarray, scores: np.ndarray) -> dict[int, float]:
    """Return the mean score over the pixels of each label."""
    totals = np.bincount(labels.ravel(), scores.ravel())
    counts = np.bincount(labels.ravel())
    return {node: round(float(totals[node] / counts[node]), 6) for node in np.flatnonzero(counts)}
