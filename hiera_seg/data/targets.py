"""Make the training targets of other models: a binary mask per class, or annotated objects."""

from collections.abc import Sequence

import torch
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import BitMasks, Instances
from fvcore.transforms.transform import TransformList
from torch import Tensor

OUTPUTS = ("nodes", "leaves", "instances", "panoptic")


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
    return filter_empty_instances(annotations_to_instances(objects, size, mask_format))
