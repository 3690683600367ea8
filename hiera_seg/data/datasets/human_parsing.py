"""Register LIP and CIHP: photos of persons with 19 classes of clothes and body parts.

LIP (Look into Person) has 50462 crops of single persons: Gong et al., Look into person:
self-supervised structure-sensitive learning and a new benchmark for human parsing, CVPR 2017. CIHP
(Crowd Instance-level Human Parsing) has photos of several people: Gong et al., Instance-level human
parsing via part grouping network, ECCV 2018. Their ids differ in one class; see the trees.
"""

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.hierarchy import Hierarchy

# Left and right are those of the person, so they swap when the image is mirrored.
FLIP_PAIRS = [[f"left-{part}", f"right-{part}"] for part in ("arm", "leg", "shoe")]
# The folders of images and labels in the releases, below $DETECTRON2_DATASETS/<dataset>
FOLDERS = {
    ("lip", "train"): ("train_images", "train_segmentations"),
    ("lip", "val"): ("val_images", "val_segmentations"),
    ("cihp", "train"): ("Training/Images", "Training/Category_ids"),
    ("cihp", "val"): ("Validation/Images", "Validation/Category_ids"),
}


def register() -> None:
    """Register hiera_lip_{train,val} and hiera_cihp_{train,val}."""
    for (dataset, split), (images, labels) in FOLDERS.items():
        tree = Hierarchy.load(dataset)
        register_builtin_dataset(
            f"hiera_{dataset}_{split}",
            hierarchy=tree,
            raw_classes=list(tree.leaf_names),
            image_root=f"$DETECTRON2_DATASETS/{dataset}/{images}",
            sem_seg_root=f"$DETECTRON2_DATASETS/{dataset}/{labels}",
            flip_pairs=FLIP_PAIRS,
        )


register()
