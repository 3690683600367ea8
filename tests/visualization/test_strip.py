"""Strips of all levels, and the files of one image."""

import numpy as np
import pytest
from PIL import Image

from hiera_seg import Hierarchy
from hiera_seg.data import read_label_file
from hiera_seg.hierarchy import tree_colors
from hiera_seg.visualization import cut_at_level, draw_levels, save_label_map, save_levels

STREET = Hierarchy.from_dict(
    {"flat": ["road", "path"], "vehicle": {"van": None, "car": ["bus", "taxi"]}, "sky": None},
    name="street",
    levels=["group", "kind", "class"],
)


def prediction(hierarchy, size=(60, 80)):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    leaves = np.zeros(size, np.int64)
    leaves[:, size[1] // 2 :] = max(hierarchy.num_leaves - 2, 0)
    levels = [cut_at_level(leaves, hierarchy, level, 255) for level in range(hierarchy.num_levels)]
    return image, levels


def test_one_panel_a_level_beside_the_image():
    image, levels = prediction(STREET)
    strip = draw_levels(image, levels, STREET, with_legend=False)
    height, width = strip.shape[:2]
    assert strip.dtype == np.uint8 and width > 4 * 80  # small images are enlarged
    both = draw_levels(image, levels, STREET, truth=levels[-1], with_legend=False)
    assert both.shape == (2 * height, width, 3)
    assert draw_levels(image, levels, STREET).shape[0] > height


def test_panels_show_the_levels_in_their_order():
    image, levels = prediction(STREET)
    strip = draw_levels(image, levels, STREET, alpha=1.0, with_legend=False)
    colors = tree_colors(STREET)
    middle = strip[strip.shape[0] // 2]
    places = [
        np.flatnonzero((middle == colors[int(labels[0, -1])]).all(axis=1)) for labels in levels
    ]
    assert all(len(place) > 50 for place in places)
    assert places[0].max() < places[1].min() and places[1].max() < places[2].min()


def test_all_void_and_a_flat_tree_can_be_drawn():
    flat = Hierarchy.from_dict(["a", "b"])
    image = np.zeros((5, 7, 3), np.uint8)
    void = np.full((5, 7), 255)
    assert draw_levels(image, [void], flat, truth=void).ndim == 3


def test_a_map_for_every_level_is_needed():
    image, levels = prediction(STREET)
    with pytest.raises(ValueError, match="2 label maps for the 3 levels of tree 'street'"):
        draw_levels(image, levels[:2], STREET)


def test_files_of_an_image(tmp_path):
    image, levels = prediction(STREET)
    paths = save_levels(tmp_path, "a", image, levels, STREET)
    names = ["group", "kind", "class"]
    expected = {f"a_{n}.png" for n in names} | {f"a-ids-{n}.png" for n in names} | {"a-levels.png"}
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()} == expected
    for name, labels in zip(names, levels, strict=True):
        with Image.open(tmp_path / f"a-ids-{name}.png") as ids:
            assert ids.mode == "P"  # ids in colours
            np.testing.assert_array_equal(np.asarray(ids), labels)
            colored = np.asarray(ids.convert("RGB"))
        np.testing.assert_array_equal(colored, tree_colors(STREET)[labels])
        assert Image.open(tmp_path / f"a_{name}.png").size == (80, 60)


def test_only_some_levels(tmp_path):
    image, levels = prediction(STREET)
    save_levels(tmp_path, "a", image, levels, STREET, levels=["kind"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a_kind.png", "a-ids-kind.png", "a-levels.png"}


@pytest.mark.parametrize(
    ("kinds", "ends"),
    [(["labels"], ["-ids-kind"]), (["overlay"], ["_kind"]), (["strip"], ["-levels"]), ([], [])],
)
def test_only_some_kinds(tmp_path, kinds, ends):
    image, levels = prediction(STREET)
    paths = save_levels(tmp_path, "a", image, levels, STREET, levels=["kind"], kinds=kinds)
    assert [path.name for path in paths] == [f"a{end}.png" for end in ends]
    assert sorted(paths) == sorted(tmp_path.iterdir())


def test_255_nodes_still_have_colours(tmp_path):
    tree = Hierarchy.from_dict({"g": [f"c{i}" for i in range(254)]})
    labels = np.arange(255, dtype=np.int64).reshape(15, 17)
    save_label_map(tmp_path / "a.png", labels, tree)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), labels)
    np.testing.assert_array_equal(read_label_file(str(tmp_path / "a.png")), labels)
    few = Hierarchy.from_dict({"g": ["a", "b"]})  # Pillow packs small palettes into fewer bits
    save_label_map(tmp_path / "b.png", labels % 3, few)
    np.testing.assert_array_equal(read_label_file(str(tmp_path / "b.png")), labels % 3)


def test_ids_above_255_take_16_bits(tmp_path):
    wide = Hierarchy.from_dict({"g": [f"c{i}" for i in range(400)]}, levels=["group", "class"])
    image, levels = prediction(wide)
    save_levels(tmp_path, "a", image, levels, wide)
    with Image.open(tmp_path / "a-ids-class.png") as ids:
        assert ids.mode.startswith("I;16")
        np.testing.assert_array_equal(np.asarray(ids), levels[-1])
    huge = Hierarchy.from_dict([f"c{i}" for i in range(65537)])
    with pytest.raises(ValueError, match="b.png: .* 65537 nodes"):
        save_label_map(tmp_path / "b.png", levels[-1], huge)
