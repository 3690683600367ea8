"""Register ADE20K's scene parsing benchmark: 22210 photos of everyday scenes, 150 classes.

Zhou et al.: Scene parsing through ADE20K dataset, CVPR 2017. Read as released
(ADEChallengeData2016): ids 1 to 150 are the classes, 0 is everything else.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.hierarchy import Hierarchy

ROOT = "$DETECTRON2_DATASETS/ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}  # split: folder of the release


def register() -> None:
    """Register hiera_ade20k_train and hiera_ade20k_val."""
    tree = Hierarchy.load("ade20k_150")
    label_map = {0: None} | {leaf + 1: leaf for leaf in range(tree.num_leaves)}
    for split, folder in SPLITS.items():
        register_builtin_dataset(
            f"hiera_ade20k_{split}",
            hierarchy=tree,
            label_map=label_map,
            image_root=f"{ROOT}/images/{folder}",
            sem_seg_root=f"{ROOT}/annotations/{folder}",
        )


register()
