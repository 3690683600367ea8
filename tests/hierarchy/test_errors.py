"""Every bad tree and every bad question: one line that names the node, the place and the remedy."""

import pytest

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy

STREET = {
    "tree": {"flat": ["road", "pavement"], "sky": None, "vehicle": ["car", "truck"]},
    "name": "street",
    "levels": ["group", "class"],
    "leaf_order": ["road", "pavement", "sky", "car", "truck"],
}


def message(function, *args, **kwargs):
    with pytest.raises(HierarchyError) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_error_is_a_value_error():
    assert issubclass(HierarchyError, ValueError)


@pytest.mark.parametrize(
    "tree, expected",
    [
        ({}, "the tree is empty: it needs at least one node"),
        ([], "the tree is empty: it needs at least one node"),
        (None, "the tree is empty: it needs at least one node"),
        ("road", "the tree is 'road': it must be a mapping or a list"),
        ({"a": {}}, "group 'a' is empty: give it children, or no value for a leaf"),
        ({"a": {"b": []}}, "group 'a/b' is empty: give it children, or no value for a leaf"),
        ({"a": ["b", {"c": ()}]}, "group 'a/c' is empty: give it children, or no value for a leaf"),
        ({"a": [{}]}, "in group 'a': an empty mapping in a list"),
        ({"a": [None]}, "in group 'a': an entry without a name"),
        ({None: ["a"]}, "at the top level: an entry without a name"),
        ({"a": [["b"]]}, "in group 'a': a list directly in a list: give the inner one a name"),
        ({"a": ["b", "c", "b"]}, "duplicate path 'a/b'"),
        ({"a": ["b", {"b": ["c"]}]}, "duplicate path 'a/b'"),
        (["a", {"a": None}], "duplicate path 'a'"),
        ({"a": {"": None}}, "in group 'a': a name is empty"),
        ({"a": [" \t"]}, "in group 'a': a name is empty"),
        ({"a": ["b "]}, "in group 'a': name 'b ' begins or ends with white space: write 'b'"),
        ({"a": ["b\nc"]}, r"in group 'a': name 'b\nc' contains a control character"),
        (
            {"a": ["b/c"]},
            "in group 'a': name 'b/c' contains \"/\", which separates the names of a path: write"
            " 'b-c' or nest the nodes",
        ),
        (
            ["n" * 256],
            "at the top level: name 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn'... has 256"
            " characters, allowed are 255",
        ),
        (
            {"a": {"x": [False]}},
            "in group 'a/x': name False is of type bool, not a string (YAML reads unquoted no, on,"
            " 1 and 2020-01-01 as other types): quote it",
        ),
        (
            {1: None},
            "at the top level: name 1 is of type int, not a string (YAML reads unquoted no, on, 1"
            " and 2020-01-01 as other types): quote it",
        ),
        (
            {"a": "b"},
            "the value of 'a' is 'b': write ['b'] for one child, a mapping or list for several,"
            " nothing for a leaf",
        ),
        *(
            (
                content,
                "this dict holds the tree beside its name, levels and leaf order: write"
                " from_dict(**data)",
            )
            for content in (STREET, {"levels": ["class"], "tree": ["road", "car"]})
        ),
    ],
)
def test_bad_nested_data(tree, expected):
    assert message(Hierarchy.from_dict, tree) == expected


def test_data_that_contains_itself_is_a_cycle():
    tree = {"a": {"b": None}}
    tree["a"]["c"] = tree
    assert message(Hierarchy.from_dict, tree) == "cycle: 'a/c' contains itself"
    row = ["x"]
    row.append({"y": row})
    assert message(Hierarchy.from_dict, {"a": row}) == "cycle: 'a/y' contains itself"
    shared = ["left", "right"]  # the same list in two places is no cycle
    assert Hierarchy.from_dict({"arm": shared, "leg": shared}).num_leaves == 4


@pytest.mark.parametrize(
    "paths, sep, expected",
    [
        (["a/b", "a/b"], "/", "duplicate path 'a/b' (entries 0 and 1)"),
        (["a--b", "c", "a--b"], "--", "duplicate path 'a/b' (entries 0 and 2)"),
        (["a//b"], "/", "path 'a//b': a name is empty"),
        (["/a"], "/", "path '/a': a name is empty"),
        ([], "/", "the tree is empty: it needs at least one node"),
        ("a/b", "/", "paths must be a list of strings, not 'a/b'"),
        (None, "/", "paths must be a list of strings, not None"),
        (["a"], "", "the separator must be a string that is not empty, not ''"),
        (
            ["a", 3],
            "/",
            "path number 1: 3 is of type int, not a string (YAML reads unquoted no, on, 1 and"
            " 2020-01-01 as other types): quote it",
        ),
        (
            ["a--b/c"],
            "--",
            "path 'a/b/c': name 'b/c' contains \"/\", which separates the names of a path: write"
            " 'b-c' or nest the nodes",
        ),
    ],
)
def test_bad_paths(paths, sep, expected):
    assert message(Hierarchy.from_paths, paths, sep) == expected


@pytest.mark.parametrize(
    "parents, expected",
    [
        ({"a": "b", "b": "c", "c": "a"}, "cycle: a -> b -> c -> a (child -> parent)"),
        ({"x": None, "y": "a", "a": "a"}, "cycle: a -> a (child -> parent)"),
        ({}, "the tree is empty: it needs at least one node"),
        ({"a": ""}, "parent '' of node 'a' is not itself a node: add it, with no parent if it is"
         " at the top; known: 'a'"),
        ({"car": "vehicel", "vehicle": None}, "parent 'vehicel' of node 'car' is not itself a node:"
         " add it, with no parent if it is at the top; nearest: 'vehicle'"),
        ({"a": 3}, "parent of 'a': 3 is of type int, not a string (YAML reads unquoted no, on, 1"
         " and 2020-01-01 as other types): quote it"),
        (["a"], "parents must be a mapping, not a list"),
    ],
)  # fmt: skip
def test_bad_parents(parents, expected):
    assert message(Hierarchy.from_parents, parents) == expected


def test_a_long_cycle_is_shortened():
    ring = {f"n{i}": f"n{(i + 1) % 5000}" for i in range(5000)}
    text = message(Hierarchy.from_parents, ring)
    assert text.startswith("cycle: n0 -> n1 -> ") and len(text) < 200


@pytest.mark.parametrize(
    "levels, expected",
    [
        (["class"], "level names 'class' are 1, the levels of the tree 2: give one name a level,"
         " coarse to fine"),
        (["a", "b", "c"], "level names 'a', 'b', 'c' are 3, the levels of the tree 2: give one name"
         " a level, coarse to fine"),
        (["group", "fine-class"], "level name 'fine-class' must be made of A-Z, a-z, 0-9 and _ only"
         " (metric keys are made of it)"),
        (["group", "cläss"], "level name 'cläss' must be made of A-Z, a-z, 0-9 and _ only"
         " (metric keys are made of it)"),
        (["", "class"], "level name '' must be made of A-Z, a-z, 0-9 and _ only (metric keys are"
         " made of it)"),
        (["class", "class"], "level name 'class' is there twice"),
        ("ab", "levels must be a list of names, coarse to fine"),
        ([["a"], "b"], "levels must be a list of names, coarse to fine"),
        ([True, "b"], "levels: True is of type bool, not a string (YAML reads unquoted no, on, 1"
         " and 2020-01-01 as other types): quote it"),
        (["x", "direct_x"], "level names 'x' and 'direct_x' would share the metric key"
         " 'mIoU_direct_x': rename one"),
    ],
)  # fmt: skip
def test_bad_level_names(levels, expected):
    assert message(Hierarchy.from_dict, **{**STREET, "levels": levels}) == expected


@pytest.mark.parametrize(
    "order, expected",
    [
        (["road", "sky"], "missing: 'pavement', 'car', 'truck'"),
        (["rood", "pavement", "sky", "car", "truck"], "unknown: 'rood'; nearest: 'road';"
         " missing: 'road'"),
        (["road", "road", "pavement", "sky", "car"], "twice: 'road'; missing: 'truck'"),
        (["flat", "flat/road", "pavement", "sky", "car", "truck"], "a group, no leaf: 'flat'"),
        (["/flat", "road", "pavement", "sky", "car", "truck"], "a group, no leaf: '/flat'"),
        (["vehicle/road", "pavement", "sky", "car", "truck"], "unknown: 'vehicle/road';"
         " known: 'road', 'pavement', 'sky', 'car', 'truck'; missing: 'road'"),
    ],
)  # fmt: skip
def test_bad_leaf_order(order, expected):
    expected = f"leaf_order must hold every leaf exactly once; {expected}"
    assert message(Hierarchy.from_dict, **{**STREET, "leaf_order": order}) == expected
    assert message(Hierarchy.from_dict(**STREET).with_leaf_order, order) == expected


def test_leaf_order_that_is_no_list_of_names():
    h = Hierarchy.from_dict(**STREET)
    assert message(h.with_leaf_order, "road") == "leaf_order must be a list of leaf names"
    assert message(h.with_leaf_order, {"road": 0}) == "leaf_order must be a list of leaf names"
    assert message(h.with_leaf_order, 3) == "leaf_order must be a list of leaf names"
    assert message(h.with_leaf_order, [7]).startswith("leaf_order: 7 is of type int, not a string")


def test_leaf_order_by_a_name_that_several_leaves_have():
    h = Hierarchy.from_paths(["b", "a/b", "c"])
    assert message(h.with_leaf_order, ["b", "c"]) == (
        "leaf_order: 2 leaves have the name 'b': write the path, one of '/b', 'a/b'"
    )
    assert h.with_leaf_order(["a/b", "c", "/b"]).paths[:3] == ("a/b", "c", "b")


def test_name_that_is_no_string():
    text = message(Hierarchy.from_dict, ["a"], name=3)
    assert text == "the name of a hierarchy must be a string, not 3"


def test_bad_questions():
    h = Hierarchy.from_dict(**STREET)
    shown = "Hierarchy('street', 7 nodes, 5 leaves, 2 levels)"
    assert message(h.id, "trcuk") == f"unknown name 'trcuk' in {shown}; nearest: 'truck'"
    assert message(h.id, "ROAD") == f"unknown name 'ROAD' in {shown}; nearest: 'road'"
    assert message(h.id, "flat/car") == (
        f"unknown name 'flat/car' in {shown}; nearest: 'vehicle/car', 'flat/road', 'flat'"
    )
    assert message(h.id, "qqq", level=0).startswith(f"unknown name 'qqq' in {shown}; known: 'road'")
    assert message(h.id, "flat", level="class") == (
        f"'flat' does not stand at level 'class' of {shown}; there stand: 'flat/road',"
        " 'flat/pavement', 'sky', 'vehicle/car', 'vehicle/truck'"
    )
    for bad in (7, -1):
        assert message(h.ancestors, bad) == f"node id {bad} is outside 0 .. 6 of {shown}"
    for bad in (1.0, None, True):
        assert message(h.id, bad) == f"a node is a name or an id, not {bad!r}"
    assert message(h.level_nodes, "kind") == (
        f"unknown level 'kind' of {shown}; levels: 'group', 'class'"
    )
    assert message(h.leaf_to_level, 2) == f"level 2 is outside -2 .. 1 of {shown}"
    assert message(h.leaf_to_level, None) == "a level is a name or an index, not None"


def test_ambiguous_name():
    h = Hierarchy.from_paths(["b", "a/b", "c/b/x", "c/b/y", "d/x"], name="t")
    assert h.id("b") == h.id("c/b")  # two leaves, so the one inner node
    shown = "Hierarchy('t', 9 nodes, 5 leaves, 3 levels)"
    assert message(h.id, "x") == (
        f"name 'x' is ambiguous in {shown}: write a path, one of 'c/b/x', 'd/x'"
    )
    assert message(h.id, "b", level=1) == (
        f"name 'b' is ambiguous at level 'level_1' in {shown}: write a path, one of '/b', 'a/b',"
        " 'c/b'"
    )


def test_constructor_says_what_to_call():
    with pytest.raises(TypeError, match="Hierarchy.load"):
        Hierarchy(["a"])
