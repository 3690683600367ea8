"""Errors about invalid trees and queries are one line that names node, place and remedy."""

import pytest

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy
from tests.messages import names_in_order

STREET = {
    "tree": {"flat": ["road", "pavement"], "sky": None, "vehicle": ["car", "truck"]},
    "name": "street",
    "levels": ["group", "class"],
    "leaf_order": ["road", "pavement", "sky", "car", "truck"],
}


def assert_names(named, function, *args, **kwargs):
    with pytest.raises(HierarchyError) as caught:
        function(*args, **kwargs)
    assert names_in_order(str(caught.value), named), str(caught.value)


@pytest.mark.parametrize(
    "tree, named",
    [
        ({}, ["tree", "empty"]),
        ([], ["tree", "empty"]),
        (None, ["tree", "empty"]),
        ("road", ["'road'"]),
        ({"a": {}}, ["'a'", "empty"]),
        ({"a": {"b": []}}, ["'a/b'", "empty"]),
        ({"a": ["b", {"c": ()}]}, ["'a/c'", "empty"]),
        ({"a": [{}]}, ["in group 'a'", "empty"]),
        ({"a": [None]}, ["in group 'a'", "name"]),
        ({None: ["a"]}, ["top level", "name"]),
        ({"a": [["b"]]}, ["in group 'a'", "nested lists"]),
        ({"a": ["b", "c", "b"]}, ["duplicate", "'a/b'"]),
        ({"a": ["b", {"b": ["c"]}]}, ["duplicate", "'a/b'"]),
        (["a", {"a": None}], ["duplicate", "'a'"]),
        ({"a": {"": None}}, ["in group 'a'", "empty"]),
        ({"a": [" \t"]}, ["in group 'a'", "empty"]),
        ({"a": ["b "]}, ["in group 'a'", "'b '", "'b'"]),
        ({"a": ["b\nc"]}, ["in group 'a'", r"'b\nc'", "control character"]),
        ({"a": ["b/c"]}, ["in group 'a'", "'b/c'", "'b-c'"]),
        (["n" * 256], ["top level", "nnn", "256", "255"]),
        ({"a": {"x": [False]}}, ["in group 'a/x'", "False", "bool"]),
        ({1: None}, ["top level", "1", "int"]),
        ({"a": "b"}, ["'a'", "'b'", "['b']"]),
        (STREET, ["from_dict(**data)"]),
        ({"levels": ["class"], "tree": ["road", "car"]}, ["from_dict(**data)"]),
    ],
)
def test_bad_nested_data(tree, named):
    assert_names(named, Hierarchy.from_dict, tree)


def test_data_that_contains_itself_is_a_cycle():
    tree = {"a": {"b": None}}
    tree["a"]["c"] = tree
    assert_names(["cycle", "'a/c'"], Hierarchy.from_dict, tree)


@pytest.mark.parametrize(
    "paths, sep, named",
    [
        (["a/b", "a/b"], "/", ["duplicate", "'a/b'"]),
        (["a--b", "c", "a--b"], "--", ["duplicate", "'a/b'"]),
        (["a//b"], "/", ["'a//b'", "empty"]),
        (["/a"], "/", ["'/a'", "empty"]),
        ([], "/", ["tree", "empty"]),
        ("a/b", "/", ["list", "'a/b'"]),
        (["a--b/c"], "--", ["'a/b/c'", "'b/c'", "'b-c'"]),
    ],
)
def test_bad_paths(paths, sep, named):
    assert_names(named, Hierarchy.from_paths, paths, sep)


@pytest.mark.parametrize(
    "parents, named",
    [
        ({"a": "b", "b": "c", "c": "a"}, ["cycle", "a -> b -> c -> a"]),
        ({"x": None, "y": "a", "a": "a"}, ["cycle", "a -> a"]),
        ({}, ["tree", "empty"]),
        ({"a": ""}, ["parent ''", "'a'", "known: 'a'"]),
        ({"car": "vehicel", "vehicle": None}, ["'vehicel'", "'car'", "nearest: 'vehicle'"]),
        ({"a": 3}, ["parent 3", "'a'"]),
    ],
)
def test_bad_parents(parents, named):
    assert_names(named, Hierarchy.from_parents, parents)


@pytest.mark.parametrize(
    "levels, named",
    [
        (["class"], ["1 level", "'class'", "2 level"]),
        (["a", "b", "c"], ["3 level", "'a', 'b', 'c'", "2 level"]),
        (["group", "fine-class"], ["'fine-class'", "A-Z"]),
        (["group", "cläss"], ["'cläss'", "A-Z"]),
        (["", "class"], ["''", "A-Z"]),
        (["class", "class"], ["'class'", "repeated"]),
        ("ab", ["levels", "list"]),
        ([["a"], "b"], ["levels", "list"]),
        ([True, "b"], ["levels", "True", "bool"]),
    ],
)
def test_bad_level_names(levels, named):
    assert_names(named, Hierarchy.from_dict, **{**STREET, "levels": levels})


@pytest.mark.parametrize(
    "order, named",
    [
        (["road", "sky"], ["missing: 'pavement', 'car', 'truck'"]),
        (["rood", "pavement", "sky", "car", "truck"],
         ["unknown: 'rood'", "nearest: 'road'", "missing: 'road'"]),
        (["road", "road", "pavement", "sky", "car"], ["repeated: 'road'", "missing: 'truck'"]),
        (["flat", "flat/road", "pavement", "sky", "car", "truck"], ["not a leaf: 'flat'"]),
        (["/flat", "road", "pavement", "sky", "car", "truck"], ["not a leaf: '/flat'"]),
        (["vehicle/road", "pavement", "sky", "car", "truck"], ["unknown: 'vehicle/road'",
         "known: 'road', 'pavement', 'sky', 'car', 'truck'", "missing: 'road'"]),
        ("road", ["list"]),
        ({"road": 0}, ["list"]),
        (3, ["list"]),
        ([7], ["7", "int"]),
    ],
)  # fmt: skip
def test_bad_leaf_order(order, named):
    named = ["leaf_order", *named]
    assert_names(named, Hierarchy.from_dict, **{**STREET, "leaf_order": order})
    assert_names(named, Hierarchy.from_dict(**STREET).with_leaf_order, order)


def test_leaf_order_by_a_name_that_several_leaves_have():
    h = Hierarchy.from_paths(["b", "a/b", "c"])
    assert_names(["leaf_order", "'b'", "'/b', 'a/b'"], h.with_leaf_order, ["b", "c"])
    assert h.with_leaf_order(["a/b", "c", "/b"]).paths[:3] == ("a/b", "c", "b")


def test_unknown_names_ids_and_levels():
    h = Hierarchy.from_dict(**STREET)
    shown = "Hierarchy('street', 7 nodes, 5 leaves, 2 levels)"
    assert_names(["'trcuk'", shown, "nearest: 'truck'"], h.id, "trcuk")
    assert_names(["'ROAD'", shown, "nearest: 'road'"], h.id, "ROAD")
    nearest = "nearest: 'vehicle/car', 'flat/road', 'flat'"
    assert_names(["'flat/car'", shown, nearest], h.id, "flat/car")
    assert_names(["'qqq'", shown, "known: 'road'"], h.id, "qqq", level=0)
    of_level = "'flat/road', 'flat/pavement', 'sky', 'vehicle/car', 'vehicle/truck'"
    assert_names(["'flat'", "level 'class'", shown, of_level], h.id, "flat", level="class")
    for bad in (7, -1):
        assert_names([f"id {bad}", "0 .. 6", shown], h.ancestors, bad)
    for bad in (1.0, None, True):
        assert_names(["node", repr(bad)], h.id, bad)
    assert_names(["'kind'", shown, "'group', 'class'"], h.level_nodes, "kind")
    assert_names(["level 2", "-2 .. 1", shown], h.leaf_to_level, 2)


def test_ambiguous_name():
    h = Hierarchy.from_paths(["b", "a/b", "c/b/x", "c/b/y", "d/x"], name="t")
    assert h.id("b") == h.id("c/b")  # two leaves, so the one inner node
    shown = "Hierarchy('t', 9 nodes, 5 leaves, 3 levels)"
    assert_names(["'x'", shown, "'c/b/x', 'd/x'"], h.id, "x")
    assert_names(["'b'", "'level_1'", shown, "'/b', 'a/b', 'c/b'"], h.id, "b", level=1)
