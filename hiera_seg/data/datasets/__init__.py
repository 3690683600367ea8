"""The built-in datasets, registered on import; their files lie below $DETECTRON2_DATASETS."""

from hiera_seg.data.datasets import camvid, cityscapes, generated, pascal_person_part

__all__ = ["camvid", "cityscapes", "generated", "pascal_person_part"]
