"""The built-in datasets, registered on import; their files lie below $DETECTRON2_DATASETS."""

from hiera_seg.data.datasets import (
    camvid,
    cihp,
    cityscapes,
    generated,
    lip,
    mapillary,
    pascal_person_part,
    street,
)

__all__ = [
    "camvid",
    "cihp",
    "cityscapes",
    "generated",
    "lip",
    "mapillary",
    "pascal_person_part",
    "street",
]
