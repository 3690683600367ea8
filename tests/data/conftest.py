"""A small tree, and files that fit it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import write_dataset

# Leaves 0 road, 1 grass, 2 left-arm, 3 right-arm, 4 head; inner nodes below.
TREE = {
    "ground": ["road", "grass"],
    "body": {"left": ["left-arm"], "right": ["right-arm"], "top": ["head"]},
}


@pytest.fixture
def tree() -> Hierarchy:
    return Hierarchy.from_dict(TREE, name="toy", levels=["group", "side", "part"])


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A function that writes images and label files of given arrays and returns the two folders."""

    def write(*arrays: dict[str, np.ndarray]) -> tuple[Path, Path]:
        return tuple(map(Path, write_dataset(tmp_path, *arrays).values()))

    return write


@pytest.fixture
def register(tree, folders) -> Callable[..., tuple[Path, Path]]:
    """A function that writes arrays, registers them under the tree, and returns the two folders."""

    def write(name: str, *arrays: dict[str, np.ndarray], **options) -> tuple[Path, Path]:
        images, labels = folders(*arrays)
        options = {"hierarchy": tree, "image_root": images, "sem_seg_root": labels, **options}
        register_hierarchical_dataset(name, **options)
        return images, labels

    return write


@pytest.fixture
def photo(register) -> Callable[..., tuple[np.ndarray, dict]]:
    """A function that registers an upright image and one with an orientation, square or not."""

    def make(
        orientation: int, size: tuple[int, int] = (8, 8), label_orientation: int = 1
    ) -> tuple[np.ndarray, dict]:
        rng = np.random.default_rng(1)
        labels = {name: rng.integers(0, 5, size).astype(np.uint8) for name in "ab"}
        roots = register("photos", labels)
        for root, value in zip(roots, (orientation, label_orientation), strict=True):
            exif = Image.Exif()
            exif[0x0112] = value
            Image.open(root / "b.png").save(root / "b.png", exif=exif)
        return labels["b"], DatasetCatalog.get("photos")[1]

    return make
