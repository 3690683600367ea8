"""Register the built-in datasets, whose files lie below $DETECTRON2_DATASETS, on import."""

from hiera_seg.data.datasets import (
    ade20k,
    camvid,
    cihp,
    cityscapes,
    coco,
    lip,
    mapillary,
    pascal_person_part,
    street,
)

__all__ = [
    "ade20k",
    "camvid",
    "cihp",
    "cityscapes",
    "coco",
    "lip",
    "mapillary",
    "pascal_person_part",
    "street",
]
