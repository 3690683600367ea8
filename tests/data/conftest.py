"""A small tree, files that fit it, and a catalog that is as before after each test."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.hierarchy import Hierarchy

# Leaves 0 road, 1 grass, 2 left-arm, 3 right-arm, 4 head; inner nodes below.
TREE = {
    "ground": ["road", "grass"],
    "body": {"left": ["left-arm"], "right": ["right-arm"], "top": ["head"]},
}


@pytest.fixture
def tree() -> Hierarchy:
    return Hierarchy.from_dict(TREE, name="toy", levels=["group", "side", "part"])


@pytest.fixture(autouse=True)
def clean_catalog():
    """Forget the datasets that a test registers."""
    before = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog.list()) - names:
            catalog.remove(name)


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes images and label files of given arrays; returns the two folders."""

    def write(labels: dict[str, np.ndarray], images: dict[str, np.ndarray] | None = None):
        image_root, label_root = tmp_path / "images", tmp_path / "labels"
        for stem, label in labels.items():
            image = (images or {}).get(stem)
            if image is None:
                image = np.stack([label, label * 3 % 251, label * 7 % 251], -1).astype(np.uint8)
            for root, array in ((image_root, image), (label_root, label)):
                path = root / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
        return image_root, label_root

    return write


@pytest.fixture(scope="session")
def png_bytes() -> Callable[..., bytes]:
    """Encodes a PNG by hand: Pillow cannot write every depth it reads."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    def encode(values: np.ndarray, bits: int, palette: bool = False) -> bytes:
        height, width = values.shape
        header = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        if palette:
            # Colours whose luminance is nothing like the index.
            colors = bytes(
                (i * 37 + c * 91 + 200) % 256 for i in range(1 << bits) for c in range(3)
            )
            data += chunk(b"PLTE", colors)
        rows = b""
        for row in values.tolist():
            text = "".join(format(value, f"0{bits}b") for value in row)
            text += "0" * (-len(text) % 8)
            rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
        return data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    return encode
