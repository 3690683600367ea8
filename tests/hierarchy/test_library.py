"""The built-in trees: sizes, channel order, and the reference values computed in that order."""

import pytest

from hiera_seg.hierarchy import Hierarchy, builtin_names

CITYSCAPES = (
    "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky"
    " person rider car truck bus train motorcycle bicycle"
)
LIP = (
    "background hat hair glove sunglasses upper-clothes dress coat socks pants jumpsuits scarf"
    " skirt face left-arm right-arm left-leg right-leg left-shoe right-shoe"
)


@pytest.mark.parametrize(
    "name, nodes_per_level",
    [
        ("camvid", [4, 13, 31]),
        ("camvid11", [4, 7, 11]),
        ("cityscapes", [7, 19]),
        ("pascal_person_part", [2, 3, 7]),
        ("lip", [2, 3, 20]),
        ("cihp", [2, 3, 20]),
    ],
)
def test_sizes(name, nodes_per_level):
    h = Hierarchy.load(name)
    assert h.name == name and name in builtin_names()
    assert [stop - start for start, stop in h.level_slices] == nodes_per_level
    assert h.num_nodes == sum(nodes_per_level) and h.num_leaves == nodes_per_level[-1]
    assert (h.depth[: h.num_leaves] == h.num_levels - 1).all()


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_tree_survives_the_forms(name, tmp_path):
    h = Hierarchy.load(name)
    h.to_yaml(tmp_path / "tree.yaml")
    assert Hierarchy.load(tmp_path / "tree.yaml") == h == Hierarchy.from_dict(**h.to_dict())
    assert Hierarchy.from_paths(h.paths[: h.num_leaves], levels=h.level_names) == h


def test_cityscapes_leaves_are_the_train_ids():
    h = Hierarchy.load("cityscapes")
    assert h.leaf_names == tuple(name.replace("_", " ") for name in CITYSCAPES.split())
    inner = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
    assert h.node_names[19:] == inner
    assert h.distance_matrix[h["car"], h["truck"]] == 2
    assert h.distance_matrix[h["car"], h["road"]] == 4


def test_person_part_trees_have_background_at_every_level():
    h = Hierarchy.load("pascal_person_part")
    parts = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")
    assert h.leaf_names == parts
    assert h.node_names[7:] == ("background", "upper", "lower", "background", "body")
    assert h.path("background") == (10, 7, 0)
    assert h.children("upper") == (1, 2, 3, 4)
    assert h.display_names == h.node_names

    lip = Hierarchy.load("lip")
    assert lip.leaf_names == tuple(LIP.split())
    assert lip.node_names[20:] == h.node_names[7:]
    assert lip.children("lower") == (8, 9, 12, 16, 17, 18, 19)
    assert lip.level_names == h.level_names == ("body", "half", "part")


@pytest.mark.parametrize("name", ["camvid", "pascal_person_part"])
def test_trees_of_the_data_sets(name, shared_datasets):
    file = shared_datasets / name / "hierarchy.json"
    if not file.is_file():
        pytest.skip(f"needs the data set: no file {file}")
    assert Hierarchy.load(file) == Hierarchy.load(name)
