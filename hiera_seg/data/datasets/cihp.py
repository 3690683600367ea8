"""Register CIHP (Crowd Instance-level Human Parsing): photos of several people, 19 classes.

Gong et al.: Instance-level human parsing via part grouping network, ECCV 2018. The ids are those
of LIP except for one; see the tree.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.data.datasets.lip import FLIP_PAIRS
from hiera_seg.hierarchy import Hierarchy

ROOT = "$DETECTRON2_DATASETS/cihp"
SPLITS = {"train": "Training", "val": "Validation"}  # split: folder of the release


def register() -> None:
    """Register hiera_cihp_train and hiera_cihp_val."""
    tree = Hierarchy.load("cihp")
    for split, folder in SPLITS.items():
        register_builtin_dataset(
            f"hiera_cihp_{split}",
            hierarchy=tree,
            raw_classes=list(tree.leaf_names),
            image_root=f"{ROOT}/{folder}/Images",
            sem_seg_root=f"{ROOT}/{folder}/Category_ids",
            flip_pairs=FLIP_PAIRS,
        )


register()
