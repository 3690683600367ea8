"""CamVid: 701 frames of street video, 31 classes and Void.

Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 2009.
``datasets/prepare_camvid.py`` makes the folders from the official colour-coded release.
"""

from typing import Any

from hiera_seg.data.catalog import register_builtin_dataset

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
ROOT = "$DETECTRON2_DATASETS/camvid"
SPLITS = ("train", "val", "test")


def split_of(frame: str) -> str:
    """The split of a frame by its name, as most papers since SegNet use it (367 / 101 / 233).

    Train and test cut the dusk sequence in two; test adds a daylight sequence, train two others;
    val is a clip at 15 Hz out of one of them.

    Args:
        frame: stem of the image file, such as "0016E5_07959".

    Raises:
        ValueError: the name belongs to none of the four sequences.
    """
    sequence, _, number = frame.partition("_")
    digits = number.removeprefix("f")
    if sequence in ("0001TP", "0006R0", "0016E5", "Seq05VD") and digits.isdecimal():
        if sequence == "Seq05VD" or (sequence == "0001TP" and int(digits) >= 8550):
            return "test"
        is_clip = sequence == "0016E5" and 7959 <= int(digits) <= 8159 and int(digits) % 2 == 1
        return "val" if is_clip else "train"
    raise ValueError(
        f"{frame!r} is no frame of CamVid (0001TP_..., 0006R0_f..., 0016E5_..., Seq05VD_f...)"
    )


def files_and_labels(split: str) -> dict[str, Any]:
    """Arguments of register_builtin_dataset for a split, for any tree with its classes."""
    names = [name for name, _ in CLASSES]
    return {
        "label_map": {name: None if name == VOID else name for name in names},
        "raw_classes": names,
        "image_root": f"{ROOT}/images/{split}",
        "sem_seg_root": f"{ROOT}/labels/{split}",
    }


def register() -> None:
    """Register hiera_camvid_train, hiera_camvid_val and hiera_camvid_test."""
    for split in SPLITS:
        register_builtin_dataset(
            f"hiera_camvid_{split}", hierarchy="camvid", **files_and_labels(split)
        )


register()
