"""Register LIP (Look into Person): 50462 crops of single persons, 19 clothes and body parts.

Gong et al.: Look into person: self-supervised structure-sensitive learning and a new benchmark for
human parsing, CVPR 2017.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.hierarchy import Hierarchy

ROOT = "$DETECTRON2_DATASETS/lip"
SPLITS = ("train", "val")
# Left and right are those of the person, so they swap when the image is mirrored.
FLIP_PAIRS = [[f"left-{part}", f"right-{part}"] for part in ("arm", "leg", "shoe")]


def register() -> None:
    """Register hiera_lip_train and hiera_lip_val."""
    tree = Hierarchy.load("lip")
    for split in SPLITS:
        register_builtin_dataset(
            f"hiera_lip_{split}",
            hierarchy=tree,
            raw_classes=list(tree.leaf_names),
            image_root=f"{ROOT}/{split}_images",
            sem_seg_root=f"{ROOT}/{split}_segmentations",
            flip_pairs=FLIP_PAIRS,
        )


register()
