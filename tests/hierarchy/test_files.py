"""Hierarchy files: the three formats, what is written, and errors with their lines."""

import pickle
import time

import pytest

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy, as_hierarchy, builtin_names

STREET_YAML = """\
name: street
levels: [group, kind, class]
leaf_order: [road, pavement, car, truck, bicyclist]
tree:
  flat: {ground: [road, pavement]}
  vehicle:
    four_wheeled: [car, truck]
    bicyclist:              # a leaf at a coarser level
"""


@pytest.fixture()
def load(tmp_path, monkeypatch):
    """Writes a file and loads it from the working folder, so that errors show its bare name."""
    monkeypatch.chdir(tmp_path)

    def write_and_load(name, text):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return Hierarchy.load(name)

    return write_and_load


def test_yaml(load):
    h = load("any.yaml", STREET_YAML)
    assert (h.name, h.level_names) == ("street", ("group", "kind", "class"))
    assert h.paths == (
        "flat/ground/road",
        "flat/ground/pavement",
        "vehicle/four_wheeled/car",
        "vehicle/four_wheeled/truck",
        "vehicle/bicyclist",
        "flat/ground",
        "vehicle/four_wheeled",
        "flat",
        "vehicle",
    )


def test_only_the_tree_is_needed_and_the_file_gives_the_name(load):
    h = load("street.yml", "tree: [road, car]")
    assert (h.name, h.level_names, h.leaf_names) == ("street", ("level_0",), ("road", "car"))
    assert load("street.yml", "name:\nlevels:\nleaf_order:\ntree: [road, car]") == h
    assert load("street.yml", "name: ''\ntree: [road, car]").name == ""


def test_byte_order_mark_and_windows_line_ends(load):
    text = STREET_YAML.replace("\n", "\r\n")
    assert load("a.yaml", b"\xef\xbb\xbf" + text.encode()) == load("b.yaml", STREET_YAML)
    table = b"\xef\xbb\xbfgroup,class\r\nflat,road\r\n"
    assert load("c.csv", table).paths == ("flat/road", "flat")


def test_csv_with_a_column_a_level(load):
    text = "group,kind,class\nflat,ground,road\nvehicle, car ,\n\nflat,ground,pavement\n"
    h = load("street.csv", text)
    assert h.level_names == ("group", "kind", "class") and h.name == "street"
    assert h.paths[:3] == ("flat/ground/road", "vehicle/car", "flat/ground/pavement")


def test_csv_with_nodes_and_parents(load):
    h = load("street.csv", "parent,node\nvehicle,car\n,vehicle\n,sky\n")
    assert h.paths == ("vehicle/car", "sky", "vehicle")
    assert load("spreadsheet.csv", "Parent,Node\nvehicle,car\n,vehicle\n,sky\n").paths == h.paths


def test_csv_with_paths(load):
    assert load("a.csv", "path\nflat/road\nsky\n").paths == ("flat/road", "sky", "flat")
    assert load("a.csv", "Path\nflat/road\nsky\n").paths == ("flat/road", "sky", "flat")


@pytest.mark.parametrize(
    "name, text, expected",
    [
        # what YAML makes of names
        ("a.yaml", "tree:\n  a: [b, no]\n", "a.yaml:2: in group 'a': name no is read as bool False,"
         ' not as a string: quote it, "no"'),
        ("a.yaml", "tree:\n  on:\n", "a.yaml:2: at the top level: name on is read as bool True,"
         ' not as a string: quote it, "on"'),
        ("a.yaml", "tree:\n  a:\n    - x\n    - 1\n", "a.yaml:4: in group 'a': name 1 is read as"
         ' int 1, not as a string: quote it, "1"'),
        ("a.yaml", "tree: [1.5]", "a.yaml:1: at the top level: name 1.5 is read as float 1.5,"
         ' not as a string: quote it, "1.5"'),
        ("a.yaml", "tree:\n  2020-01-01:\n", "a.yaml:2: at the top level: name 2020-01-01 is read"
         ' as date 2020-01-01, not as a string: quote it, "2020-01-01"'),
        ("a.yaml", "tree: [2020-99-99]", "a.yaml:1: at the top level: name 2020-99-99 is read as a"
         ' special word, not as a string: quote it, "2020-99-99"'),
        ("a.yaml", "tree:\n  null: [a]\n", "a.yaml:2: at the top level: name null is read as"
         ' NoneType None, not as a string: quote it, "null"'),
        ("a.yaml", "name: 2.0\ntree: [a]", "a.yaml:1: name: 2.0 is read as float 2.0, not as a"
         ' string: quote it, "2.0"'),
        ("a.yaml", "tree: [a]\nlevels:\n- no\n", "a.yaml:3: levels: no is read as bool False, not"
         ' as a string: quote it, "no"'),
        # nodes
        ("a.yaml", "tree:\n  a:\n    b:\n    c:\n    b:\n",
         "a.yaml:5: duplicate path 'a/b' (first on line 3)"),
        ("a.yaml", "tree:\n  a: {b: }\n  c: []\n",
         "a.yaml:3: group 'c' is empty: give it children, or no value for a leaf"),
        ("a.yaml", "tree:\n", "a.yaml:1: the tree is empty: it needs at least one node"),
        ("a.yaml", "tree:\n  - a\n  -\n", "a.yaml:3: at the top level: an entry without a name"),
        ("a.yaml", "tree:\n  a: |\n    b\n    c\n", "a.yaml:2: the value of 'a' is 'b\\nc\\n':"
         " write ['b\\nc\\n'] for one child, a mapping or list for several, nothing for a leaf"),
        ("a.yaml", "tree:\n  ? [a]\n  : b\n",
         "a.yaml:2: at the top level: a name is a list or a mapping"),
        # levels and leaf order
        ("a.yaml", "tree: [a]\nlevels: [g, k]\n", "a.yaml:2: level names 'g', 'k' are 2, the levels"
         " of the tree 1: give one name a level, coarse to fine"),
        ("a.yaml", "tree: [a, b]\nleaf_order:\n- a\n- c\n", "a.yaml:4: leaf_order must hold every"
         " leaf exactly once; unknown: 'c'; known: 'a', 'b'; missing: 'b'"),
        # the document
        ("a.yaml", "tre: [a]\n", "a.yaml:1: unknown key 'tre'; nearest: 'tree'"),
        ("a.yaml", "tree: [a]\nname: x\ntree: [b]\n",
         "a.yaml:3: key 'tree' is there twice (first on line 1)"),
        ("a.yaml", "levels: [a]\n", "a.yaml:1: the key 'tree' is missing"),
        ("a.yaml", "- a\n", "a.yaml:1: the file must be a mapping with the key 'tree'"),
        ("a.yaml", "? [a]\n: b\n", "a.yaml:1: a key is a list or a mapping"),
        ("a.yaml", "# nothing\n", "a.yaml: the file is empty: it needs the key 'tree'"),
        ("a.yaml", "tree: [a]\n---\ntree: [b]\n",
         "a.yaml:2: a second document: a hierarchy file holds one"),
        ("a.yaml", "name: x\ntree: &all [a]\n", "a.yaml:2: anchor &all: write the nodes out"
         " instead"),
        ("a.yaml", "tree: [a]\nlevels: *all\n", "a.yaml:2: alias *all: write the nodes out"
         " instead"),
        ("a.yaml", "tree: !!python/object/apply:os.getcwd []\n", "a.yaml:1: tag"
         " !!python/object/apply:os.getcwd is not allowed: a hierarchy file is plain data"),
        ("a.yaml", "tree:\n  a: [b, c\n", "a.yaml:3: not a YAML file: while parsing a flow sequence"
         " expected ',' or ']', but got '<stream end>' (begun on line 2)"),
        ("a.yaml", "tree:\n\t- a\n", "a.yaml:2: not a YAML file: while scanning for the next token"
         " found character '\\t' that cannot start any token"),
        ("a.yaml", "tree:\n- a\x07\n", "a.yaml:2: not a YAML file: character '\\x07' is not"
         " allowed"),
        ("a.yaml", b"tree:\n- a\xff\n", "a.yaml:2: the file is not UTF-8 text"),
        # json
        ("a.json", '{"tree": {"a": null,\n"a": null}}',
         "a.json:2: duplicate path 'a' (first on line 1)"),
        ("a.json", '{\n"tree": [1]}', "a.json:2: at the top level: name 1 is read as int 1, not as"
         ' a string: quote it, "1"'),
        ("a.json", '{"tree":\n ["a",]}', "a.json:2: not a JSON file: Expecting value"),
        ("a.json", '{"tree":\n ["a" "b"]}', "a.json:2: not a JSON file: expected ',' or ']', found"
         " '\"'"),
        ("a.json", '{"tree" ["a"]}', "a.json:1: not a JSON file: expected ':', found '['"),
        ("a.json", "{tree: []}", "a.json:1: not a JSON file: expected a name in double quotes,"
         " found 't'"),
        ("a.json", '{"tree": ["a"]}\n}', "a.json:2: not a JSON file: text after the end, at '}'"),
        ("a.json", '{"tree": ["a"', "a.json:1: not a JSON file: expected ',' or ']', found the end"
         " of the file"),
        ("a.json", " \n", "a.json: the file is empty: it needs the key 'tree'"),
        ("a.json", '{"tree": ["\\ud800"]}', "a.json:1: at the top level: name '\\ud800' contains a"
         " control character"),
        # csv
        ("a.csv", "", "a.csv: the file is empty: its first line names the columns"),
        ("a.csv", "group,class\n", "a.csv:1: the tree is empty: there is no line below the header"),
        ("a.csv", "group,class\nx,a\ny,a\nx,a\n",
         "a.csv:4: duplicate path 'x/a' (first on line 2)"),
        ("a.csv", "group,class\n,a\n", "a.csv:2: empty cell before 'a': a row is a path without"
         " gaps"),
        ("a.csv", "group,class\nx,a,b\n", "a.csv:2: 3 cells under 2 columns"),
        ("a.csv", "group,class\nx,\ny,\n", "a.csv:1: level names 'group', 'class' are 2, the levels"
         " of the tree 1: give one name a level, coarse to fine"),
        ("a.csv", "group-name,class\nx,a\n", "a.csv:1: level name 'group-name' must be made of A-Z,"
         " a-z, 0-9 and _ only (metric keys are made of it)"),
        ("a.csv", "group;class\nx;a\n", "a.csv:1: header 'group;class': columns are separated by"
         " commas"),
        ("a.csv", 'group,class\n"x,a\n', "a.csv:2: not a csv file: unexpected end of data"),
        ("a.csv", "node,parent,id\na,b,1\n", "a.csv:1: columns 'node', 'parent', 'id': a hierarchy"
         " table has either one column 'path', or the columns 'node' and 'parent', or one column a"
         " level"),
        ("a.csv", "node,parent\ncar,vehicle\nvehicle,\ncar,sky\n", "a.csv:4: node 'car' has two"
         " parents, 'vehicle' and 'sky' (first on line 2)"),
        ("a.csv", "node,parent\ncar,vehicle\nvehicle,\ncar,vehicle\n",
         "a.csv:4: duplicate node 'car' (first on line 2)"),
        ("a.csv", "node,parent\nx,\na,b\nb,a\n",
         "a.csv:3: cycle: a -> b -> a (child -> parent)"),
        ("a.csv", "node,parent\ncar,vehicle\n", "a.csv:2: parent 'vehicle' of node 'car' is not"
         " itself a node: add it, with no parent if it is at the top; known: 'car'"),
        ("a.csv", "path\na//b\n", "a.csv:2: path 'a//b': a name is empty"),
        ("a.csv", "path\na/b\n\na/b\n", "a.csv:4: duplicate path 'a/b' (first on line 2)"),
    ],
)  # fmt: skip
def test_bad_file(load, name, text, expected):
    with pytest.raises(HierarchyError) as caught:
        load(name, text)
    assert str(caught.value) == expected


def test_unknown_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = ", ".join(repr(name) for name in builtin_names())
    with pytest.raises(HierarchyError) as caught:
        Hierarchy.load("cityscape")
    assert str(caught.value) == (
        f"'cityscape' is neither a built-in hierarchy (there are: {known}) nor a file that ends in"
        " .yaml, .yml, .json, .csv; nearest: 'cityscapes'"
    )
    with pytest.raises(HierarchyError, match=r"^absent.yaml: cannot read .*: No such file"):
        Hierarchy.load("absent.yaml")
    with pytest.raises(HierarchyError, match="from a name or a path, not from 3"):
        Hierarchy.load(3)
    with pytest.raises(HierarchyError, match="from a name or a path, not from b'cityscapes'"):
        Hierarchy.load(b"cityscapes")
    with pytest.raises(HierarchyError, match=r"a\\x00.yaml': cannot read .*: embedded null byte"):
        Hierarchy.load("a\0.yaml")


def test_written_file_is_laid_out_as_by_hand(tmp_path):
    h = Hierarchy.from_dict(
        {"flat": {"ground": ["road", "no"]}, "vehicle": {"car": None, "two wheels": ["a: b"]}},
        name="street",
        levels=["group", "kind", "class"],
    )
    h.to_yaml(tmp_path / "street.yaml")
    assert (tmp_path / "street.yaml").read_text(encoding="utf-8") == (
        "name: street\n"
        "levels: [group, kind, class]\n"
        'leaf_order: [road, "no", car, "a: b"]\n'
        "tree:\n"
        "  flat:\n"
        '    ground: [road, "no"]\n'
        "  vehicle:\n"
        "    car:\n"
        '    two wheels: ["a: b"]\n'
    )


def test_long_lists_are_wrapped(tmp_path):
    h = Hierarchy.from_dict({"g": [f"some class {i}" for i in range(100)]})
    h.to_yaml(tmp_path / "a.yaml")
    lines = (tmp_path / "a.yaml").read_text().splitlines()
    assert max(map(len, lines)) <= 100 and Hierarchy.load(tmp_path / "a.yaml") == h


def test_a_tree_far_deeper_than_the_recursion_limit(tmp_path):
    depth = 10_000
    tree = None
    for i in reversed(range(depth)):
        tree = {f"n{i}": tree}
    h = Hierarchy.from_dict(tree)
    assert h.num_nodes == h.num_levels == depth and h.num_leaves == 1
    assert h.id("n0") == depth - 1 and h.node_names[0] == "n9999"
    assert len(h.path(0)) == depth and h.lca(0, depth - 1) == depth - 1
    assert Hierarchy.from_dict(**h.to_dict()) == h
    assert pickle.loads(pickle.dumps(h)) == h
    parents = {f"n{i}": f"n{i - 1}" if i else None for i in range(depth)}
    assert Hierarchy.from_parents(parents) == h
    h.to_yaml(tmp_path / "deep.yaml")
    assert Hierarchy.load(tmp_path / "deep.yaml") == h
    text = '{"tree": ' + "".join(f'{{"n{i}": ' for i in range(depth)) + "null" + "}" * depth + "}"
    (tmp_path / "deep.json").write_text(text)
    assert Hierarchy.load(tmp_path / "deep.json") == h


@pytest.mark.parametrize(
    "text",
    [
        "tree: " + "[" * 50_000,
        "tree: " + "[" * 50_000 + "]" * 50_000,
        "tree: " + "{" * 20_000,
        "tree: " + "[{a: " * 10_000,
        "tree:\n" + "- " * 20_000 + "a",
        "? " * 20_000,
        '{"tree": ' + "[" * 50_000,
    ],
    ids=range(7),
)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_brackets_nested_out_of_all_bounds_are_refused_at_once(tmp_path, text, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(HierarchyError, match=f"^{path}:[12]: ") as error:
        Hierarchy.load(path)
    assert time.process_time() - start < 8  # most took a minute
    if suffix == "yaml":
        assert "brackets are nested more than 100 deep" in str(error.value)


def test_as_hierarchy_takes_every_form(tmp_path):
    h = Hierarchy.load("cityscapes")
    h.to_yaml(tmp_path / "c.yaml")
    assert as_hierarchy(h) is h
    for source in (h.to_dict(), "cityscapes", tmp_path / "c.yaml", str(tmp_path / "c.yaml")):
        assert as_hierarchy(source) == h
    assert as_hierarchy({"tree": ["a"], "levels": ["x"]}).level_names == ("x",)
    assert as_hierarchy({"flat": ["road"], "sky": None}).leaf_names == ("road", "sky")
