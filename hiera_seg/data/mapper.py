"""Map a dict that names an image and its label file to a sample for the model."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import BitMasks, Instances
from fvcore.transforms.transform import Transform, TransformList
from torch import Tensor

from hiera_seg.config import WIDE_IGNORE_VALUE, resolve_hierarchy, resolve_ignore_label
from hiera_seg.data.augmentations import NodeAugInput, build_augmentations
from hiera_seg.data.flips import swap_table
from hiera_seg.data.image_files import check_listed_size, check_same_size
from hiera_seg.data.images import ImageReader
from hiera_seg.data.labels import LabelReader, default_void
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy

logger = logging.getLogger(__name__)

OUTPUTS = ("nodes", "leaves", "instances", "panoptic")


class HieraDatasetMapper:
    """Map dicts in Detectron2's format to samples for its data loaders or this package's.

    A training sample holds ``image`` (uint8 tensor (C, H, W), in the channel order of
    INPUT.FORMAT; float32 if these are bands) and ``sem_seg`` (int64 tensor (H, W), node ids of the
    model's tree), in addition to the entries of the dict and ``height`` and ``width`` of the image
    file. At test time there is no ``sem_seg`` by default.

    Random numbers come from the global generators of numpy and, for colours, of ``random``, as in
    Detectron2; :func:`~hiera_seg.data.loader.build_hiera_train_loader` seeds them per sample.

    The ``dataset_name`` of a dict selects the label map. If that dataset has another tree than the
    model, its nodes are matched by path. Label files of dicts without the name hold node ids of the
    model's tree.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        hierarchy: Hierarchy,
        ignore_label: int,
        augmentations: Sequence[T.Augmentation | Transform],
        image_format: str,
        pad_size: tuple[int, int] | None = None,
        pad_value: Sequence[float] = (0.0, 0.0, 0.0),
        with_sem_seg: bool | None = None,
        dataset_names: Iterable[str] = (),
        image_range: Sequence[float] = (),
        exif: str = "apply",
        num_channels: int | None = None,
        output: str = "nodes",
        mask_format: str = "polygon",
    ):
        """
        Args:
            is_train: training or test.
            hierarchy: the model's tree.
            ignore_label: void in ``sem_seg``.
            augmentations: applied in turn. They see labels as uint8 node ids with void 255, or as
                uint16 with void 65535 if the tree has more than 255 nodes. If they mirror the
                image, the dataset's ``flip_pairs`` swap.
            image_format, image_range, exif: see :class:`~hiera_seg.data.images.ImageReader`.
            pad_size: smallest (height, width) of a sample; smaller ones are padded at the right
                and at the bottom, with void in ``sem_seg``.
            pad_value: one value per channel for the padding of the image. Configs use the mean
                pixel, which becomes 0 when the model normalizes, like the padding of batches.
            with_sem_seg: whether to read labels; default: in training only.
            dataset_names: datasets whose trees and label maps are checked now instead of at the
                first sample.
            num_channels: number of bands to require; None for any number.
            output: the targets of a training sample. "nodes": ``sem_seg`` holds node ids, for the
                models of this package. "leaves": it holds leaf ids, and labels of inner nodes
                become void, for flat models. "instances": also ``instances`` with one binary mask
                per leaf, for models that classify masks, such as Mask2Former
                (:func:`class_masks`). "panoptic": node ids, and
                ``instances`` of the dict's ``annotations``, for PanopticFPN.
            mask_format: INPUT.MASK_FORMAT, the format of the masks of ``annotations``.

        Raises:
            ConfigError: `output`, `image_range` or `exif` is invalid, or a flat model of a config
                has another number of classes than the tree has leaves, or ignores a node.
            DatasetError: one of `dataset_names` does not fit the model's tree.
        """
        if output not in OUTPUTS:
            raise ConfigError(f"output is {output!r}; choose one of {', '.join(OUTPUTS)}")
        self.is_train = is_train
        self.output = output
        self.mask_format = mask_format
        self.hierarchy = hierarchy
        self.ignore_label = ignore_label
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.exif = exif
        self._read_image = ImageReader(image_format, image_range, exif, num_channels)
        self.pad_size = None if pad_size is None else (int(pad_size[0]), int(pad_size[1]))
        self.pad_value = tuple(pad_value)
        self.with_sem_seg = is_train if with_sem_seg is None else with_sem_seg
        self._tables: dict[str | None, _LabelTables] = {}
        if self.with_sem_seg:
            for name in dataset_names:
                if name in DatasetCatalog:
                    self._tables_of(name)
        mode = "training" if is_train else "test"
        logger.info(f"Augmentations in {mode}: {self.augmentations}")

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool = True, *, output: str = "nodes"
    ) -> dict[str, Any]:
        hierarchy = resolve_hierarchy(cfg)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if output in ("leaves", "instances") and num_classes != hierarchy.num_leaves:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}; set it to "
                f"{hierarchy.num_leaves}, the number of leaves of tree {hierarchy.name!r}"
            )
        ignore_label = resolve_ignore_label(cfg, hierarchy)
        if output == "leaves" and ignore_label != cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE}, the id "
                f"of a node of tree {hierarchy.name!r}, which a flat head would ignore; set it to "
                f"{ignore_label}"
            )
        crop = cfg.INPUT.CROP
        fixed_size = is_train and crop.ENABLED and crop.TYPE == "absolute"
        return {
            "is_train": is_train,
            "hierarchy": hierarchy,
            "ignore_label": ignore_label,
            "augmentations": build_augmentations(cfg, is_train, hierarchy),
            "image_format": cfg.INPUT.FORMAT,
            "pad_size": tuple(crop.SIZE) if fixed_size else None,
            "pad_value": tuple(cfg.MODEL.PIXEL_MEAN),
            "dataset_names": tuple(cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST),
            "image_range": tuple(cfg.INPUT.IMAGE_RANGE),
            "exif": cfg.INPUT.EXIF,
            "num_channels": len(cfg.MODEL.PIXEL_MEAN),
            "output": output,
            "mask_format": cfg.INPUT.MASK_FORMAT,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read, augment and pad one sample.

        Args:
            dataset_dict: one entry of a dataset; not changed.

        Returns:
            A new dict, see the class.

        Raises:
            DatasetError: a file is missing or unreadable, sizes differ, or the label file holds
                ids that are not mapped; the message names the files.
        """
        sample = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        image = self._read_image(sample["file_name"])
        check_listed_size(sample["file_name"], image.shape[:2], sample)
        sample["height"], sample["width"] = image.shape[:2]
        labels = tables = None
        if self.with_sem_seg:
            tables = self._tables_of(sample.get("dataset_name"))
            labels = self._read_labels(sample, image.shape[:2], tables)

        augmented = NodeAugInput(image, labels)
        transforms = self.augmentations(augmented)
        sample["image"] = self._pad_image(augmented.image)
        if labels is not None:
            table = tables.mirrored if augmented.mirrored else tables.straight
            sample["sem_seg"] = self._pad(table.take(augmented.sem_seg), self.ignore_label)
            if self.output == "instances":
                sample["instances"] = class_masks(sample["sem_seg"], self.ignore_label)
        if self.is_train and self.output == "panoptic":
            annotations = dataset_dict.get("annotations", ())
            height, width = sample["image"].shape[-2:]
            rows, columns = augmented.image.shape[:2]
            transforms += T.PadTransform(0, 0, width - columns, height - rows)
            sample["instances"] = annotated_objects(
                annotations, transforms, (height, width), self.mask_format
            )
        return sample

    def _read_labels(
        self, sample: dict[str, Any], size: tuple[int, int], tables: "_LabelTables"
    ) -> np.ndarray:
        path = sample.get("sem_seg_file_name")
        if path is None:
            raise DatasetError(
                f"image {sample['file_name']} has no label file; its dict needs 'sem_seg_file_name'"
            )
        raw, _ = tables.reader.read_raw(path, size)
        check_same_size(sample["file_name"], size, path, raw.shape)
        tables.reader.check(raw, path)
        return tables.compact.take(raw)

    def _tables_of(self, dataset_name: str | None) -> "_LabelTables":
        if dataset_name not in self._tables:
            only_leaves = self.output in ("leaves", "instances")
            self._tables[dataset_name] = _LabelTables.build(
                dataset_name, self.hierarchy, self.ignore_label, self.exif, only_leaves
            )
        return self._tables[dataset_name]

    def _pad_image(self, image: np.ndarray) -> torch.Tensor:
        channels = np.moveaxis(image.reshape(*image.shape[:2], -1), 2, 0)
        value = np.resize(np.asarray(self.pad_value), len(channels))
        if np.issubdtype(image.dtype, np.integer):
            value = value.round()
        return self._pad(channels, value.astype(image.dtype)[:, None, None])

    def _pad(self, array: np.ndarray, value: Any) -> torch.Tensor:
        """Pad the last two axes of an array at their ends, up to `pad_size`."""
        height, width = array.shape[-2:]
        least = self.pad_size or (0, 0)
        shape = (*array.shape[:-2], max(height, least[0]), max(width, least[1]))
        if shape == array.shape:
            return torch.from_numpy(np.ascontiguousarray(array))
        padded = np.empty(shape, array.dtype)
        padded[...] = value
        padded[..., :height, :width] = array
        return torch.from_numpy(padded)


class _LabelTables(NamedTuple):
    """Lookup tables of one dataset's labels, in the model's tree."""

    reader: LabelReader  # checks raw ids
    compact: np.ndarray  # raw id -> label in augmentations (uint8 or uint16, void all ones)
    straight: np.ndarray  # that label -> int64 node id or the model's ignore label
    mirrored: np.ndarray  # the same for an image that was mirrored

    @classmethod
    def build(
        cls, name: str | None, hierarchy: Hierarchy, ignore_label: int, exif: str, only_leaves: bool
    ) -> "_LabelTables":
        if hierarchy.num_nodes > WIDE_IGNORE_VALUE:
            raise DatasetError(
                f"tree {hierarchy.name!r} has {hierarchy.num_nodes} nodes, but label maps of 16 "
                f"bits hold at most {WIDE_IGNORE_VALUE} and void; remove nodes"
            )
        meta = MetadataCatalog.get(name) if name and name in MetadataCatalog else None
        swap = np.arange(hierarchy.num_nodes)
        if meta is None or meta.get("hierarchy") is None:
            # Label files of a third-party dataset hold node ids of the model's tree.
            void = ignore_label if meta is None else meta.get("ignore_label", ignore_label)
            reader = LabelReader(hierarchy, None, void, name=name or "", exif=exif)
        else:
            reader = LabelReader.from_metadata(meta, exif)
            swap = swap_table(meta.get("flip_pairs") or (), reader.hierarchy, hierarchy)
        if reader.hierarchy != hierarchy or reader.ignore_label != ignore_label:
            reader = reader.to_hierarchy(hierarchy, ignore_label)

        void = default_void(hierarchy)
        is_node = reader.known & (reader.table != ignore_label)
        if only_leaves:  # before augmentation, because crops do not count void as a category
            is_node &= reader.table < hierarchy.num_leaves
            swap = np.where(swap < hierarchy.num_leaves, swap, ignore_label)
        compact = np.where(is_node, reader.table, void).astype(np.min_scalar_type(void))
        straight = np.full(void + 1, ignore_label, dtype=np.int64)
        straight[: hierarchy.num_nodes] = np.arange(hierarchy.num_nodes)
        mirrored = straight.copy()
        mirrored[: hierarchy.num_nodes] = swap
        return cls(reader, compact, straight, mirrored)


def class_masks(labels: Tensor, ignore_label: int) -> Instances:
    """Return one binary mask per class, as the semantic mappers of Mask2Former and MaskDINO do.

    Args:
        labels: int64 (H, W) leaf ids.
        ignore_label: void.

    Returns:
        ``gt_classes`` int64 (K,) ascending, ``gt_masks`` bool (K, H, W) and their ``gt_boxes``.
    """
    classes = torch.unique(labels)
    classes = classes[classes != ignore_label]
    masks = BitMasks(labels == classes[:, None, None])
    return Instances(
        tuple(labels.shape),
        gt_classes=classes,
        gt_masks=masks.tensor,
        gt_boxes=masks.get_bounding_boxes(),
    )


def annotated_objects(
    annotations: Sequence[dict], transforms: TransformList, size: tuple[int, int], mask_format: str
) -> Instances:
    """Return the objects of a dict's annotations after augmentation, as Detectron2's mapper does.

    The box of an object with a mask is that of the part of the mask that augmentations leave.

    Args:
        annotations: in Detectron2's format; not changed. Crowd regions are left out.
        transforms: the augmentations of the image.
        size: (height, width) of the augmented image.
        mask_format: INPUT.MASK_FORMAT, "polygon" or "bitmask".
    """
    objects = [
        transform_instance_annotations(dict(annotation), transforms, size)
        for annotation in annotations
        if not annotation.get("iscrowd", 0)
    ]
    instances = annotations_to_instances(objects, size, mask_format)
    if instances.has("gt_masks"):
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return filter_empty_instances(instances)
