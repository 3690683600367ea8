"""Read, register, check, augment and load datasets with a class tree.

Importing this package registers the built-in datasets with Detectron2.
"""

import hiera_seg.compat  # must be imported before detectron2
from hiera_seg.data import datasets  # registers
from hiera_seg.data.catalog import register_hierarchical_dataset
from hiera_seg.data.coco_json import register_coco_hierarchical
from hiera_seg.data.images import read_image_file
from hiera_seg.data.label_files import read_label_file
from hiera_seg.data.labels import LabelReader
from hiera_seg.data.listing import pair_files
from hiera_seg.data.loader import (
    PositionSampler,
    build_hiera_test_loader,
    build_hiera_train_loader,
)
from hiera_seg.data.mapper import HieraDatasetMapper
from hiera_seg.errors import DatasetError
