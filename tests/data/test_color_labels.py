import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from hiera_seg.data import LabelReader
from hiera_seg.data.dataset_check import check_dataset
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from tests.data.png_files import png_of
from tests.helpers import plain_mapper

MAP = {"#FF0000": "road", (0, 255, 0): "body", "[1, 2, 3]": "head", "#000000": None}
RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[1, 2, 3], [0, 0, 0]]], np.uint8)


@pytest.fixture
def colored(register):
    labels = register("toy", {"a": RGB[..., 0]}, label_map=MAP)[1]
    Image.fromarray(RGB).save(labels / "a.png")
    return labels / "a.png"


def test_every_reader_knows_the_colors(colored, tree):
    nodes = [[tree["road"], tree["body"]], [tree["head"], 255]]
    assert LabelReader(tree, MAP)(str(colored)).tolist() == nodes
    other = Hierarchy.from_dict({**tree.to_dict()["tree"], "more": None})
    translated = LabelReader(tree, MAP).to_hierarchy(other, 255)(str(colored))
    assert translated.tolist() == [[other["road"], other["body"]], [other["head"], 255]]
    mapper = plain_mapper(tree)
    assert mapper(DatasetCatalog.get("toy")[0])["sem_seg"].tolist() == nodes
    report = check_dataset("toy")
    assert not report.problems and report.void_pixels == 1 and report.node_pixels.sum() == 3


def test_palette_files_count_by_their_colors(colored, tree):
    Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE).save(colored)
    Image.open(colored).save(colored.with_suffix(".gif"))
    for path in (colored, colored.with_suffix(".gif")):
        assert LabelReader(tree, MAP)(str(path))[0].tolist() == [tree["road"], tree["body"]]


def test_other_colors_are_listed_with_counts(colored, tree):
    rgb = RGB.repeat(2, 0)
    rgb[0], rgb[2, 0] = (9, 9, 9), (7, 7, 7)
    Image.fromarray(rgb).save(colored)
    with pytest.raises(DatasetError, match=r"a\.png.*#090909 \(2 pixels\), #070707 \(1 pixels\)"):
        LabelReader(tree, MAP)(str(colored))
    with pytest.raises(DatasetError, match=r"a\.png.*mode RGB.*label_map"):
        LabelReader(tree)(str(colored))


def test_values_of_16_bits_are_no_colors(colored, tree):
    # Pillow would read the upper 8 bits of the first as "#000000", and the second as white.
    for values, pixels, color in ((RGB.astype(np.uint16), "RGB;16B", 2), (RGB[..., 0], "I;16B", 0)):
        colored.write_bytes(png_of(values, 16, color))
        with pytest.raises(DatasetError, match=rf"a\.png has {pixels} pixels"):
            LabelReader(tree, {**MAP, "#ffffff": "road"})(str(colored))


@pytest.mark.parametrize(
    "label_map, named",
    [
        ({"#ff0000": "road", 3: "head"}, "key 3"),
        ({"#ff0000": "road", "#0f0": "head"}, "key '#0f0'.*#rrggbb"),
        ({(300, 0, 0): "road"}, r"\(300, 0, 0\)"),
        ({"#ff0000": "road", (255, 0, 0): "head"}, "twice"),
        ({"#ff0000": "rod"}, "'rod'"),
    ],
)
def test_bad_maps_are_named(tree, label_map, named):
    with pytest.raises(DatasetError, match=named):
        LabelReader(tree, label_map)
