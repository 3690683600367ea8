"""What a Hierarchy answers, on trees small enough to see the answer."""

import numpy as np
import pytest

from hiera_seg.hierarchy import Hierarchy


@pytest.fixture(scope="module")
def street():
    """Three levels; bicyclist ends at the middle one, sky is a group and its only leaf."""
    return Hierarchy.from_dict(
        {
            "flat": {"ground": ["road", "pavement"]},
            "sky": {"sky": {"sky": None}},
            "vehicle": {"four_wheeled": ["car", "truck"], "bicyclist": None},
        },
        name="street",
        levels=["group", "kind", "class"],
        leaf_order=["bicyclist", "road", "sky", "pavement", "car", "truck"],
    )


def test_numbers_and_names(street):
    assert (street.num_nodes, street.num_leaves, street.num_levels, street.height) == (12, 6, 3, 3)
    assert street.leaf_names == ("bicyclist", "road", "sky", "pavement", "car", "truck")
    # Inner nodes from the finest level up, each level by first leaf.
    assert street.paths[6:] == (
        "flat/ground",
        "sky/sky",
        "vehicle/four_wheeled",
        "vehicle",
        "flat",
        "sky",
    )
    assert street.parent.tolist() == [9, 6, 7, 6, 8, 8, 10, 11, 9, -1, -1, -1]
    assert street.depth.tolist() == [1, 2, 2, 2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert street.display_names == street.node_names


def test_arrays_cannot_be_written(street):
    arrays = [
        street.parent,
        street.depth,
        street.node_level,
        street.level_ancestor,
        street.ancestor_matrix,
        street.distance_matrix,
        street.level_nodes(0),
        street.leaf_to_level(0),
    ]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert all(array.dtype == np.int64 for array in arrays[:4])


def test_attributes_cannot_be_set(street):
    for name in ("name", "parent", "colour"):
        with pytest.raises(AttributeError, match=name):
            setattr(street, name, 1)


def test_tables_are_made_once(street):
    assert street.distance_matrix is street.distance_matrix
    assert street.level_nodes(-1) is street.level_nodes("class")
    fresh = Hierarchy.load("cityscapes")
    assert "ancestor_matrix" not in vars(fresh)


def test_equality_is_paths_numbering_and_level_names(street):
    data = street.to_dict()
    again = Hierarchy.from_dict(**{**data, "name": "another"})
    assert again == street and hash(again) == hash(street)
    assert {street: 1}[again] == 1
    assert Hierarchy.from_dict(**{**data, "levels": None}) != street
    assert Hierarchy.from_dict(**{**data, "leaf_order": None}) != street
    # The same names under the same numbers, but y is elsewhere.
    one = Hierarchy.from_paths(["a/x", "a/y", "b/z"])
    other = Hierarchy.from_paths(["a/x", "b/y", "b/z"])
    assert one.node_names == other.node_names and one != other


def test_a_single_node():
    h = Hierarchy.from_dict(["only"])
    assert (h.num_nodes, h.num_leaves, h.num_levels) == (1, 1, 1)
    assert h.level_slices == ((0, 1),) and h.distance_matrix.tolist() == [[0]]
    assert h.level_ancestor.tolist() == [[0]] and h.lca(0, 0) == 0


def test_no_accidental_sequence(street):
    with pytest.raises(TypeError):
        iter(street)
    with pytest.raises(TypeError):
        "car" in street  # noqa: B015


def test_numpy_names_and_ids(street):
    words = np.array(["b", "a", "x", "y"])
    h = Hierarchy.from_dict(
        {words[0]: words[2:].tolist(), words[1]: list(words[2:])}, levels=words[:2]
    )
    assert h == Hierarchy.from_paths(np.array(["b/x", "b/y", "a/x", "a/y"]), levels=["b", "a"])
    assert {type(name) for name in (*h.node_names, *h.level_names)} == {str}
    assert street.path(np.int64(4)) == street.path("car")
    assert type(street.id(np.int64(4))) is int


def test_depth_first_puts_descendants_behind_their_ancestors():
    for tree in (
        Hierarchy.load("mapillary_vistas_v2"),
        Hierarchy.from_dict({"a": ["b"], "c": None}),
    ):
        order = tree.depth_first.tolist()
        assert sorted(order) == list(range(tree.num_nodes)) and not tree.depth_first.flags.writeable
        for place, node in enumerate(order):
            below = tree.descendants(node)
            assert set(order[place : place + len(below)]) == set(below)
        roots = [node for node in order if tree.parent[node] < 0]
        assert roots == list(tree.children(-1))


def test_repr(street):
    assert repr(street) == "Hierarchy('street', 12 nodes, 6 leaves, 3 levels)"
