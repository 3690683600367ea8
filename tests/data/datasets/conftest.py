"""Tiny made-up folders in the layouts of the built-in datasets, two pairs of files each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@dataclass(frozen=True)
class Layout:
    """Where files of a split lie; ``{}`` stands for the name of an image.

    Attributes:
        image, label: paths below $DETECTRON2_DATASETS.
        known, unknown: a raw id that the dataset has, and one that it has not.
        list: a text file that names the images, where the split is made by one.
    """

    image: str
    label: str
    known: int
    unknown: int
    list: str = ""


VISTAS = "mapillary_vistas"
LAYOUTS = {
    "hiera_ade20k_val": Layout(
        "ADEChallengeData2016/images/validation/{}.jpg",
        "ADEChallengeData2016/annotations/validation/{}.png", 150, 151),
    "hiera_coco_panoptic_val": Layout(
        "coco/val2017/{}.jpg", "coco/panoptic_semseg_val2017/{}.png", 132, 133),
    # Stored is the id less one: 12 is "street sign", which was never labelled.
    "hiera_coco_stuff_train": Layout(
        "coco/train2017/{}.jpg", "coco/stuffthingmaps/train2017/{}.png", 181, 11),
    "hiera_camvid_train": Layout(
        "camvid/images/train/{}.jpg", "camvid/labels/train/{}.png", 31, 32),
    "hiera_cityscapes_val": Layout(
        "cityscapes/leftImg8bit/val/ulm/{}_leftImg8bit.png",
        "cityscapes/gtFine/val/ulm/{}_gtFine_labelIds.png", 33, 34),
    "hiera_cityscapes_trainids_val": Layout(
        "cityscapes/leftImg8bit/val/ulm/{}_leftImg8bit.png",
        "cityscapes/gtFine/val/ulm/{}_gtFine_labelTrainIds.png", 18, 19),
    "hiera_street_camvid_test": Layout(
        "camvid/images/test/{}.jpg", "camvid/labels/test/{}.png", 31, 32),
    "hiera_street_cityscapes_train": Layout(
        "cityscapes/leftImg8bit/train/ulm/{}_leftImg8bit.png",
        "cityscapes/gtFine/train/ulm/{}_gtFine_labelIds.png", 33, 34),
    "hiera_pascal_person_part_test": Layout(
        "pascal_person_part/images/{}.jpg", "pascal_person_part/labels/{}.png", 6, 7,
        "pascal_person_part/test.txt"),
    "hiera_lip_train": Layout("lip/train_images/{}.jpg", "lip/train_segmentations/{}.png", 19, 20),
    "hiera_cihp_val": Layout(
        "cihp/Validation/Images/{}.jpg", "cihp/Validation/Category_ids/{}.png", 19, 20),
    "hiera_mapillary_vistas_v2_val": Layout(
        f"{VISTAS}/validation/images/{{}}.jpg", f"{VISTAS}/validation/v2.0/labels/{{}}.png",
        123, 124),
    "hiera_mapillary_vistas_v2_3level_train": Layout(
        f"{VISTAS}/training/images/{{}}.jpg", f"{VISTAS}/training/v2.0/labels/{{}}.png", 123, 124),
    "hiera_mapillary_vistas_v1_train": Layout(
        f"{VISTAS}/training/images/{{}}.jpg", f"{VISTAS}/training/v1.2/labels/{{}}.png", 65, 66),
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    """A made-up split: its name, its layout, and its files."""

    name: str
    layout: Layout
    root: Path
    stems: tuple[str, ...] = ("a", "b")

    def image(self, stem: str) -> Path:
        return self.root / self.layout.image.format(stem)

    def label(self, stem: str) -> Path:
        return self.root / self.layout.label.format(stem)


@pytest.fixture(params=sorted(LAYOUTS))
def made_up(request, tmp_path, monkeypatch) -> Files:
    """Every built-in dataset in turn, with two images of 8x6 pixels and labels of one known id."""
    files = Files(request.param, LAYOUTS[request.param], tmp_path / "datasets")
    for stem in files.stems:
        for path in (files.image(stem), files.label(stem)):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(files.image(stem))
        label = np.full((6, 8), files.layout.known, np.uint8)
        Image.fromarray(label).save(files.label(stem))
    if files.layout.list:
        (files.root / files.layout.list).write_text("a\nb\n")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(files.root))
    return files


@pytest.fixture
def sample(shared_datasets) -> Callable[[str], Path]:
    """A folder of the real samples by name; skips where it is absent."""

    def find(name: str) -> Path:
        path = shared_datasets / "samples" / name
        if not path.exists():
            pytest.skip(f"needs the real sample: no {path}")
        return path

    return find


@pytest.fixture
def linked(tmp_path, monkeypatch) -> Callable[[dict[str, Path]], None]:
    """Makes tmp_path the folder of all datasets, with links: path below it -> what it shows."""

    def link(links: dict[str, Path]) -> None:
        for name, target in links.items():
            place = tmp_path / "linked" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "linked"))

    return link
