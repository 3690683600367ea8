"""Hierarchy files of any content: a HierarchyError that names the file, or the tree in it."""

import csv
import io
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy
from tests.random_trees import NAMES

Paths = list[tuple[str, ...]]

PIECES = [
    *("\n", "\n  ", "\n    ", "\n- ", "  - ", "\t", " ", ": ", ":", ",", *"[]{}|>"),
    *('"', "'", "#", "&a ", "*a", "!!python/name:os.system ", "!!str ", "!", "---\n", "...\n", "%"),
    *("<<: ", "? ", "\x00", "\ud800", "\ufeff", "\u2028", "\r", "\r\n", "/", "//", "é", "=", "~"),
    *("tree:", "levels:", "leaf_order:", "name:", "tree", "null", "true", "1", "1e999", "-0", "\\"),
    *("path\n", "node,parent\n", "a,b\n", ",,", '""', "\\u0000", "\\ud800", "car", "sky", "road"),
]
DOCUMENTS = {
    ".yaml": [
        "name: street\nlevels: [group, kind, class]\nleaf_order: [car, road]\n"
        "tree:\n  flat: {ground: [road]}\n  vehicle:\n    land:\n      car:\n",
        "tree: [a, b, {c: [d, e]}, {f: }]\n",
        "# a note\n'tree':\n- road\n- vehicle:\n  - car\n  - \"bus\"\n- sky\n",
        "{tree: {x: {y: {z: }}}}",
    ],
    ".json": [
        '{"name": "street", "levels": ["group", "class"], "leaf_order": ["car", "road"],\n'
        ' "tree": {"flat": {"road": null}, "vehicle": ["car"]}}',
        '{"tree": ["a", "b", {"c": ["d"]}]}',
        '{"tree": {"x": {"y": {"z": null}}, "\\u00e9": null}}',
    ],
    ".csv": [
        "group,kind,class\nflat,ground,road\nvehicle,,\nvehicle,car,\n",
        "path\nflat/road\nvehicle/car\nsky\n",
        "node,parent\ncar,vehicle\nvehicle,\nsky,\n",
        'parent,node\n,"a, b"\n"a, b",c\n"a, b",d\n',
    ],
}


NOTHING = (None, "", "~", "null", "Null", "NULL")  # below a leaf, as it is written


@st.composite
def changed(draw: st.DrawFn, suffix: str) -> bytes:
    """A good document with a few pieces put in, cut out, doubled, or put in place of others."""
    text = draw(st.sampled_from(DOCUMENTS[suffix]))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(text)))
        stop = place + draw(st.integers(0, 6))
        piece = draw(st.sampled_from(PIECES) | st.sampled_from(NAMES))
        kind = draw(st.sampled_from(["put in", "replace", "cut", "double"]))
        if kind == "cut":
            piece = ""
        elif kind == "double":
            piece = text[place:stop] * 2
        text = text[:place] + piece + text[place if kind == "put in" else stop :]
    return text.encode(errors="surrogatepass")


@st.composite
def heaped(draw: st.DrawFn, suffix: str) -> bytes:
    """Pieces in any order."""
    start = draw(st.sampled_from(["", "tree:\n  ", '{"tree": ', "path\n", "node,parent\n"]))
    pieces = draw(st.lists(st.sampled_from(PIECES) | st.sampled_from(NAMES), max_size=12))
    return (start + "".join(pieces)).encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trees")


def nested_paths(node: object, above: tuple[str, ...] = ()) -> Paths:
    """Paths of a nested document, in order."""
    paths = []
    for item in node if isinstance(node, list) else [node]:
        if not isinstance(item, dict):
            assert isinstance(item, str), f"{item!r} is no name"
            paths.append((*above, item))
            continue
        for name, inside in item.items():
            paths.append((*above, name))
            if isinstance(inside, list | dict):
                paths += nested_paths(inside, paths[-1])
            else:
                assert inside in NOTHING, f"{inside!r} is no child"
    return paths


def table_paths(rows: list[list[str]]) -> Paths:
    """Paths of a csv file, in order, each with those above it."""
    rows = [[cell.strip() for cell in row] for row in rows]
    header, *rows = [row for row in rows if any(row)]
    if sorted(header) == ["node", "parent"]:
        parent = {row[header.index("node")]: row[header.index("parent") :][:1] for row in rows}

        def path(name: str) -> tuple[str, ...]:
            above = parent[name]
            return (*path(above[0]), name) if above and above[0] else (name,)

        return [path(name) for name in parent]
    split = [row[0].split("/") if header == ["path"] else [c for c in row if c] for row in rows]
    prefixes = [tuple(row[: i + 1]) for row in split for i in range(len(row))]
    return list(dict.fromkeys(prefixes))


def content_of(suffix: str, content: bytes) -> tuple[Paths, dict]:
    """What is in a file, read with other readers: paths in order, and the other keys."""
    text = content.decode("utf-8-sig")
    if suffix == ".csv":
        return table_paths(list(csv.reader(io.StringIO(text, newline="")))), {}
    # All plain values of YAML as text: names are as they are written
    document = json.loads(text) if suffix == ".json" else yaml.load(text, yaml.BaseLoader)
    return nested_paths(document["tree"]), document


def check(folder, suffix: str, content: bytes) -> None:
    file = folder / f"tree{suffix}"
    file.write_bytes(content)
    try:
        h = Hierarchy.load(file)
    except HierarchyError as error:
        assert str(error).strip() and str(file) in str(error)
        return
    paths, keys = content_of(suffix, content)
    assert sorted(h.paths) == sorted("/".join(path) for path in paths)
    inner = {path[:-1] for path in paths}
    leaves = ["/".join(path) for path in paths if path not in inner]
    if keys.get("leaf_order"):
        wanted = [name.removeprefix("/").split("/")[-1] for name in keys["leaf_order"]]
        assert list(h.leaf_names) == wanted and sorted(h.paths[: h.num_leaves]) == sorted(leaves)
    else:
        assert list(h.paths[: h.num_leaves]) == leaves
    if keys.get("levels"):
        assert list(h.level_names) == keys["levels"]
    if isinstance(keys.get("name"), str) and keys["name"]:
        assert h.name in (keys["name"], file.stem)


@pytest.mark.parametrize("suffix", DOCUMENTS)
def test_any_file_is_refused_or_understood(folder, suffix):
    @settings(max_examples={".yaml": 2000, ".json": 1400, ".csv": 1100}[suffix])
    @given(changed(suffix) | heaped(suffix) | st.binary(max_size=60))
    def run(content):
        check(folder, suffix, content)

    run()


@pytest.mark.parametrize("suffix", DOCUMENTS)
def test_the_documents_that_are_changed_are_good_ones(folder, suffix):
    for text in DOCUMENTS[suffix]:
        file = folder / f"good{suffix}"
        file.write_text(text, encoding="utf-8")
        assert Hierarchy.load(file).num_nodes > 2
