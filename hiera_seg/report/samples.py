"""Choose and read samples of a registered dataset: images with their ground truth."""

from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_seg.config import WIDE_IGNORE_VALUE
from hiera_seg.data import LabelReader
from hiera_seg.data.image_files import check_same_size
from hiera_seg.data.images import rgb_reader
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy


def spread_over(dataset_name: str, num: int) -> dict[int, dict[str, Any]]:
    """Choose at most `num` dicts spread evenly over a dataset, always the same ones, by index.

    Raises:
        DatasetError: the dataset is empty, or its files do not exist.
    """
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise DatasetError(f"dataset {dataset_name!r} is empty")
    chosen = np.unique(np.linspace(0, len(records) - 1, num).round().astype(int)) if num else []
    return {int(index): records[index] for index in chosen}


class SampleReader:
    """Read the image and the ground truth of a dataset's dict.

    Args:
        cfg: its INPUT determines how files are read.
        dataset_name: a registered dataset. None for images that are not of a dataset. A dataset
            without a tree has no ground truth, and needs `hierarchy`.
        hierarchy: the tree of the ground truth; default: that of the dataset.

    Attributes:
        hierarchy: the tree of the ground truth, or None.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str | None, hierarchy: Hierarchy | None = None):
        self._read_image = rgb_reader(cfg)
        self._read_labels = None
        self.hierarchy = hierarchy
        if dataset_name is None:
            return
        metadata = MetadataCatalog.get(dataset_name)
        if hierarchy is None or metadata.get("hierarchy") is not None:
            reader = LabelReader.from_metadata(metadata, cfg.INPUT.EXIF)
            if hierarchy is not None and reader.hierarchy != hierarchy:
                reader = reader.to_hierarchy(hierarchy, WIDE_IGNORE_VALUE)
            self._read_labels, self.hierarchy = reader, reader.hierarchy

    def __call__(self, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the image, uint8 (H, W, 3) in RGB, and the node ids (H, W), or None.

        Raises:
            DatasetError: a file cannot be read, or the sizes of image and labels differ.
        """
        name, truth_name = record["file_name"], record.get("sem_seg_file_name")
        image = self._read_image(name)
        if self._read_labels is None or truth_name is None:
            return image, None
        truth = self._read_labels(truth_name, image.shape[:2])
        check_same_size(name, image.shape[:2], truth_name, truth.shape)
        return image, truth
