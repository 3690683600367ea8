"""Register Cityscapes in its official layout, with labelIds or labelTrainIds.

Cordts et al.: The Cityscapes dataset for semantic urban scene understanding, CVPR 2016.
"""

from typing import Any

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.hierarchy import Hierarchy

# The official classes in the order of their ids, 0 to 33. The benchmark scores those that are
# leaves of the tree; the others are void. "license plate" (id -1) is in no
# label file: its pixels have the id of what is around it.
CLASSES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic",
    "ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence",
    "guard rail", "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "caravan", "trailer",
    "train", "motorcycle", "bicycle",
)  # fmt: skip
ROOT = "$DETECTRON2_DATASETS/cityscapes"
SPLITS = ("train", "val")


def files(split: str, kind: str) -> dict[str, Any]:
    """Return the arguments that list the files of a split ("train", "val") with labels of a kind.

    The kind of the label files is "labelIds" or "labelTrainIds".
    """
    return {
        "image_root": f"{ROOT}/leftImg8bit/{split}",
        "sem_seg_root": f"{ROOT}/gtFine/{split}",
        "image_suffix": "_leftImg8bit",
        "label_suffix": f"_gtFine_{kind}",
    }


def register() -> None:
    """Register hiera_cityscapes_{train,val} and hiera_cityscapes_trainids_{train,val}."""
    tree = Hierarchy.load("cityscapes")
    scored = {name: name if name in tree.leaf_names else None for name in CLASSES}
    kinds = {
        "": ("labelIds", scored, CLASSES),
        # Train ids are the leaves of the tree in order; no other ids occur.
        "trainids_": ("labelTrainIds", None, tree.leaf_names),
    }
    for prefix, (kind, label_map, raw_classes) in kinds.items():
        for split in SPLITS:
            register_builtin_dataset(
                f"hiera_cityscapes_{prefix}{split}",
                hierarchy=tree,
                label_map=label_map,
                raw_classes=list(raw_classes),
                **files(split, kind),
            )


register()
