"""Register Pascal-Person-Part: 3533 photos of VOC2010 with six body parts and background.

Chen et al.: Detect what you can: detecting and representing objects using holistic models and body
parts, CVPR 2014. ``datasets/prepare_pascal_person_part.py`` creates the folders from the official
release.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.hierarchy import Hierarchy

ROOT = "$DETECTRON2_DATASETS/pascal_person_part"
SPLIT_SIZES = {"train": 1716, "test": 1817}  # as published

# The parts of a person in the release's annotations, by their class in the benchmark. With them the
# annotations give the published labels pixel by pixel (compared on eight images).
PARTS = {
    "head": (
        "head", "hair", "leye", "reye", "lear", "rear", "lebrow", "rebrow", "nose", "mouth", "neck",
    ),
    "torso": ("torso",),
    "upper_arm": ("luarm", "ruarm"),
    "lower_arm": ("llarm", "rlarm", "lhand", "rhand"),
    "upper_leg": ("luleg", "ruleg"),
    "lower_leg": ("llleg", "rlleg", "lfoot", "rfoot"),
}  # fmt: skip


def register() -> None:
    """Register hiera_pascal_person_part_train and hiera_pascal_person_part_test."""
    tree = Hierarchy.load("pascal_person_part")
    for split in SPLIT_SIZES:
        register_builtin_dataset(
            f"hiera_pascal_person_part_{split}",
            hierarchy=tree,
            raw_classes=list(tree.leaf_names),
            image_root=f"{ROOT}/images",
            sem_seg_root=f"{ROOT}/labels",
            split_file=f"{ROOT}/{split}.txt",
        )


register()
