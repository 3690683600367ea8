"""Register COCO 2017 with its panoptic labels (133 classes) and as COCO-Stuff (171 classes).

Lin et al.: Microsoft COCO, ECCV 2014; Kirillov et al.: Panoptic segmentation, CVPR 2019; Caesar et
al.: COCO-Stuff, CVPR 2018. ``datasets/prepare_coco_panoptic.py`` creates the panoptic label files;
those of COCO-Stuff are read as released.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.hierarchy import Hierarchy

ROOT = "$DETECTRON2_DATASETS/coco"
SPLITS = ("train", "val")
# Ids that COCO gave to things and never labelled, among 1 to 182.
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
NUM_IDS = 182


def register() -> None:
    """Register hiera_coco_panoptic_{train,val} and hiera_coco_stuff_{train,val}."""
    # A stored value is the id minus one; leaves are in the order of the ids.
    stored = [value for value in range(NUM_IDS) if value + 1 not in UNUSED_IDS]
    sets = {
        "panoptic": ("panoptic_semseg_{}2017", None),
        "stuff": ("stuffthingmaps/{}2017", {value: leaf for leaf, value in enumerate(stored)}),
    }
    for kind, (folder, label_map) in sets.items():
        tree = Hierarchy.load(f"coco_{kind}")
        for split in SPLITS:
            register_builtin_dataset(
                f"hiera_coco_{kind}_{split}",
                hierarchy=tree,
                label_map=label_map,
                image_root=f"{ROOT}/{split}2017",
                sem_seg_root=f"{ROOT}/{folder.format(split)}",
            )


register()
