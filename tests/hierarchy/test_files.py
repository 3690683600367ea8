"""Read the three formats of hierarchy files, with file and line in errors, and write YAML."""

import pickle
import time

import pytest

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy, as_hierarchy
from tests.messages import names_in_order

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


def test_headers_of_csv_files_may_be_capitalized(load):
    h = load("street.csv", "Parent,Node\nvehicle,car\n,vehicle\n,sky\n")
    assert h.paths == ("vehicle/car", "sky", "vehicle")
    assert load("a.csv", "Path\nflat/road\nsky\n").paths == ("flat/road", "sky", "flat")


# File, content, line at fault, and what the message names, in this order.
BAD_FILES = [
    # what YAML makes of names
    ("a.yaml", "tree:\n  a: [b, no]\n", 2, "'a'", "bool False", '"no"'),
    ("a.yaml", "tree:\n  on:\n", 2, "top level", "bool True", '"on"'),
    ("a.yaml", "tree:\n  a:\n    - x\n    - 1\n", 4, "'a'", "int 1", '"1"'),
    ("a.yaml", "tree: [1.5]", 1, "float 1.5", '"1.5"'),
    ("a.yaml", "tree:\n  2020-01-01:\n", 2, "date 2020-01-01", '"2020-01-01"'),
    ("a.yaml", "tree: [2020-99-99]", 1, '"2020-99-99"'),
    ("a.yaml", "tree:\n  null: [a]\n", 2, "NoneType", '"null"'),
    ("a.yaml", "name: 2.0\ntree: [a]", 1, "name: ", "float 2.0", '"2.0"'),
    ("a.yaml", "name: [x]\ntree: [a]", 1, "name "),
    ("a.yaml", "tree: [a]\nlevels:\n- no\n", 3, "levels: ", "bool False", '"no"'),
    # nodes
    ("a.yaml", "tree:\n  a:\n    b:\n    c:\n    b:\n", 5, "'a/b'", "line 3"),
    ("a.yaml", "tree:\n  a: {b: }\n  c: []\n", 3, "'c'", "empty"),
    ("a.yaml", "tree:\n", None, "tree", "empty"),
    ("a.yaml", "tree:\n  - a\n  -\n", 3, "top level", "name"),
    ("a.yaml", "tree:\n  a: |\n    b\n    c\n", 2, "'a'", "'b\\nc\\n'"),
    ("a.yaml", "tree:\n  ? [a]\n  : b\n", 2, "top level", "name"),
    # levels and leaf order
    ("a.yaml", "tree: [a]\nlevels: [g, k]\n", 2, "2 level", "'g', 'k'", "1 level"),
    ("a.yaml", "tree: [a, b]\nleaf_order:\n- a\n- c\n", 4, "leaf_order", "unknown: 'c'",
     "missing: 'b'"),
    # the document
    ("a.yaml", "tre: [a]\n", 1, "'tre'", "nearest: 'tree'"),
    ("a.yaml", "tree: [a]\nname: x\ntree: [b]\n", 3, "'tree'", "line 1"),
    ("a.yaml", "levels: [a]\n", 1, "'tree'", "missing"),
    ("a.yaml", "- a\n", 1, "'tree'"),
    ("a.yaml", "? [a]\n: b\n", 1, "key"),
    ("a.yaml", "# nothing\n", None, "empty", "'tree'"),
    ("a.yaml", "tree: [a]\n---\ntree: [b]\n", 2, "second document"),
    ("a.yaml", "name: x\ntree: &all [a]\n", 2, "&all"),
    ("a.yaml", "tree: [a]\nlevels: *all\n", 2, "*all"),
    ("a.yaml", "tree: !!python/object/apply:os.getcwd []\n", 1,
     "!!python/object/apply:os.getcwd"),
    ("a.yaml", "tree:\n  a: [b, c\n", 3, "YAML", "']'", "line 2"),
    ("a.yaml", "tree:\n\t- a\n", 2, "YAML", "'\\t'"),
    ("a.yaml", "tree:\n- a\x07\n", 2, "YAML", "'\\x07'"),
    ("a.yaml", b"tree:\n- a\xff\n", 2, "UTF-8"),
    # json
    ("a.json", '{"tree": {"a": null,\n"a": null}}', 2, "'a'", "line 1"),
    ("a.json", '{"tree": {"a": null},\n"tree": ["b"]}', 2, "'tree'", "line 1"),
    ("a.json", '{\n"tree": [1]}', 2, "int 1", '"1"'),
    ("a.json", '{"tree":\n ["a",]}', 2, "JSON"),
    ("a.json", '{"tree":\n ["a" "b"]}', 2, "JSON"),
    ("a.json", '{"tree" ["a"]}', 1, "JSON"),
    ("a.json", "{tree: []}", 1, "JSON"),
    ("a.json", '{"tree": ["a"]}\n}', 2, "JSON"),
    ("a.json", '{"tree": ["a"', 1, "JSON"),
    ("a.json", "", 1, "JSON"),
    ("a.json", '{"tree": ["\\ud800"]}', 1, "'\\ud800'"),
    # csv
    ("a.csv", "", None, "empty"),
    ("a.csv", "group,class\n", None, "empty"),
    ("a.csv", "group,class\nx,a\ny,a\nx,a\n", 4, "'x/a'", "line 2"),
    ("a.csv", "group,class\n,a\n", 2, "'a'"),
    ("a.csv", "group,class\nx,a,b\n", 2, "3 cells", "2 columns"),
    ("a.csv", "group,class\nx,\ny,\n", 1, "2 level", "'group', 'class'", "1 level"),
    ("a.csv", "group-name,class\nx,a\n", 1, "'group-name'"),
    ("a.csv", "group;class\nx;a\n", 1, "'group;class'", "commas"),
    ("a.csv", "vehicle,car\nvehicle,truck\n", 1, "'vehicle'", "column"),
    ("a.csv", 'group,class\n"x,a\n', 2, "csv"),
    ("a.csv", "node,parent,id\na,b,1\n", 1, "'node', 'parent', 'id'"),
    ("a.csv", "node,parent\ncar,vehicle\nvehicle,\ncar,sky\n", 4, "'car'", "'vehicle'", "'sky'",
     "line 2"),
    ("a.csv", "node,parent\ncar,vehicle\nvehicle,\ncar,vehicle\n", 4, "'car'", "line 2"),
    ("a.csv", "node,parent\nx,\na,b\nb,a\n", 3, "cycle", "a -> b -> a"),
    ("a.csv", "node,parent\ncar,vehicle\n", 2, "'vehicle'", "'car'"),
    ("a.csv", "path\na//b\n", 2, "'a//b'"),
    ("a.csv", "path\na/b\n\na/b\n", 4, "'a/b'", "line 2"),
]  # fmt: skip


@pytest.mark.parametrize("name, text, line, named", [(*row[:3], row[3:]) for row in BAD_FILES])
def test_an_error_names_file_line_and_node(load, name, text, line, named):
    with pytest.raises(HierarchyError) as caught:
        load(name, text)
    message = str(caught.value)
    assert message.startswith(f"{name}:{line}: " if line else f"{name}: ")
    assert names_in_order(message, named)


def test_unknown_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HierarchyError, match=r"'cityscape' .*\.yaml.*nearest: 'cityscapes'"):
        Hierarchy.load("cityscape")
    with pytest.raises(HierarchyError, match=r"^absent\.yaml: .*No such file"):
        Hierarchy.load("absent.yaml")


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
        "leaf_order: [road, 'no', car, 'a: b']\n"
        "tree:\n"
        "  flat:\n"
        "    ground: [road, 'no']\n"
        "  vehicle:\n"
        "    car:\n"
        "    two wheels: ['a: b']\n"
    )


def test_long_lists_are_wrapped(tmp_path):
    h = Hierarchy.from_dict({"g": [f"some class {i}" for i in range(100)]})
    h.to_yaml(tmp_path / "a.yaml")
    lines = (tmp_path / "a.yaml").read_text().splitlines()
    assert max(map(len, lines)) < 120 and Hierarchy.load(tmp_path / "a.yaml") == h


def test_a_tree_far_deeper_than_the_recursion_limit(tmp_path):
    depth = 3000
    tree = None
    for i in reversed(range(depth)):
        tree = {f"n{i}": tree}
    h = Hierarchy.from_dict(tree)
    assert h.num_nodes == h.num_levels == depth and h.num_leaves == 1
    assert h.id("n0") == depth - 1 and h.node_names[0] == f"n{depth - 1}"
    assert len(h.path(0)) == depth and h.lca(0, depth - 1) == depth - 1
    assert Hierarchy.from_dict(**h.to_dict()) == h
    assert pickle.loads(pickle.dumps(h)) == h
    parents = {f"n{i}": f"n{i - 1}" if i else None for i in range(depth)}
    assert Hierarchy.from_parents(parents) == h
    h.to_yaml(tmp_path / "deep.yaml")
    assert Hierarchy.load(tmp_path / "deep.yaml") == h
    text = '{"tree": ' + '{"n": ' * 100_000 + "null" + "}" * 100_000 + "}"
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(HierarchyError, match="deep.json: "):  # Python's reader of JSON recurses
        Hierarchy.load(tmp_path / "deep.json")


@pytest.mark.parametrize(
    "text",
    [
        "tree: " + "[" * 50_000,
        "tree: " + "{" * 20_000,
        "tree: " + "[{a: " * 10_000,
        "tree:\n" + "- " * 20_000 + "a",
        "? " * 20_000,
        '{"tree": ' + "[" * 50_000,
    ],
    ids=range(6),
)
def test_brackets_nested_out_of_all_bounds_are_refused_at_once(tmp_path, text):
    name, reason = ("a.json", "JSON") if text[0] == "{" else ("a.yaml", "100")
    path = tmp_path / name
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(HierarchyError, match=f"^{path}:(.*[12]:)? .*{reason}"):
        Hierarchy.load(path)
    assert time.process_time() - start < 8  # without the limit most need a minute


def test_as_hierarchy_takes_every_form(tmp_path):
    h = Hierarchy.load("cityscapes")
    h.to_yaml(tmp_path / "c.yaml")
    assert as_hierarchy(h) is h
    for source in (h.to_dict(), "cityscapes", tmp_path / "c.yaml", str(tmp_path / "c.yaml")):
        assert as_hierarchy(source) == h
    assert as_hierarchy({"tree": ["a"], "levels": ["x"]}).level_names == ("x",)
    assert as_hierarchy({"flat": ["road"], "sky": None}).leaf_names == ("road", "sky")
