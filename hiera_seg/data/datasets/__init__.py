"""Register the built-in datasets, whose files lie below $DETECTRON2_DATASETS, on import."""

from hiera_seg.data.datasets import (  # noqa: F401  (each registers its datasets)
    ade20k,
    camvid,
    cityscapes,
    coco,
    human_parsing,
    mapillary,
    pascal_person_part,
    street,
)
