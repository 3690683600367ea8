"""Georeferencing of GeoTIFF images in label maps and overlays, read back by tifffile."""

import numpy as np
import pytest
from PIL import Image

from hiera_seg import Hierarchy
from hiera_seg.data import read_label_file
from hiera_seg.visualization import save_label_map, save_levels
from hiera_seg.visualization.geotiff import read_geo_tags

tifffile = pytest.importorskip("tifffile", reason="needs tifffile")

TAGS = {
    33550: ("d", (0.5, 0.5, 0.0)),
    33922: ("d", (0.0, 0.0, 0.0, 447000.25, 4650000.75, 0.0)),
    34735: ("H", (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32616)),
    34737: ("s", "WGS 84 / UTM zone 16N|"),
}


@pytest.fixture
def geotiff(tmp_path):
    """A tiled and compressed image, as GDAL writes them."""
    image = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    extra = [(tag, kind, len(value), value, True) for tag, (kind, value) in TAGS.items()]
    tifffile.imwrite(
        tmp_path / "scene.tif", image, tile=(16, 16), compression="zlib", photometric="rgb",
        extratags=extra, metadata=None,
    )  # fmt: skip
    return tmp_path / "scene.tif", image


def tags_of(path):
    with tifffile.TiffFile(path) as file:
        assert file.is_geotiff
        return {tag: file.pages[0].tags[tag].value for tag in TAGS}


def test_overlays_and_label_maps_keep_the_georeferencing(geotiff, street, tmp_path):
    path, image = geotiff
    labels = np.random.default_rng(1).integers(street.num_nodes, size=(48, 64))
    written = save_levels(
        tmp_path, "out", image, [labels] * street.num_levels, street, geo_tags=read_geo_tags(path)
    )
    assert sorted(p.name for p in written) == sorted(
        ["out-levels.png"]
        + [f"out-ids-{level}.tif" for level in street.level_names]
        + [f"out_{level}.tif" for level in street.level_names]
    )
    for file in written:
        if file.suffix == ".tif":
            assert tags_of(file) == {tag: value for tag, (_, value) in TAGS.items()}
    ids = tmp_path / f"out-ids-{street.level_names[0]}.tif"
    np.testing.assert_array_equal(tifffile.imread(ids), labels)
    np.testing.assert_array_equal(np.asarray(Image.open(ids)), labels)
    np.testing.assert_array_equal(read_label_file(str(ids)), labels)
    assert tifffile.imread(tmp_path / f"out_{street.level_names[0]}.tif").shape == image.shape


def test_ids_of_a_large_tree_have_16_bits(geotiff, tmp_path):
    tree = Hierarchy.from_dict({"group": [f"leaf{i}" for i in range(400)]})
    labels = np.arange(400).reshape(20, 20)
    save_label_map(tmp_path / "ids.tif", labels, tree, geo_tags=read_geo_tags(geotiff[0]))
    found = tifffile.imread(tmp_path / "ids.tif")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, labels)


def test_other_files_have_no_georeferencing(tmp_path):
    for name in ("a.png", "a.tif"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    whole = (tmp_path / "a.tif").read_bytes()
    for name, content in (("text", b"no image"), ("empty", b""), ("cut", whole[:6])):
        (tmp_path / f"{name}.tif").write_bytes(content)
    for path in tmp_path.iterdir():
        assert not read_geo_tags(path), path
    assert not read_geo_tags(tmp_path / "none.tif")


@pytest.mark.parametrize(("orientation", "bigtiff", "kept"), [(1, True, 4), (3, False, 0)])
def test_bands_large_files_and_orientation(tmp_path, orientation, bigtiff, kept):
    """Pillow cannot open an image of five bands, but its tags can be read."""
    extra = [(tag, kind, len(value), value, True) for tag, (kind, value) in TAGS.items()]
    tifffile.imwrite(
        tmp_path / "bands.tif", np.zeros((4, 6, 5), np.uint16), bigtiff=bigtiff, metadata=None,
        photometric="minisblack", planarconfig="contig",
        extratags=[*extra, (274, "H", 1, orientation, True)],
    )  # fmt: skip
    assert len(read_geo_tags(tmp_path / "bands.tif")) == kept
