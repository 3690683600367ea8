"""Read hierarchy files: YAML, JSON and csv."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from hiera_seg.hierarchy.inputs import (
    SEPARATOR,
    FlatTree,
    ListNode,
    MapNode,
    Scalar,
    flat_from_parents,
    flat_from_rows,
    flat_from_tree,
    not_a_string,
)
from hiera_seg.hierarchy.markup import read_json, read_yaml
from hiera_seg.hierarchy.messages import fail, first_seen, listing, suggestion

FILE_KEYS = ("tree", "name", "levels", "leaf_order")
LIBRARY = Path(__file__).with_name("library")
SUFFIXES = (".yaml", ".yml", ".json", ".csv")


# The nodes, the name of the tree, its levels and its leaf order; None for a missing key.
FileContent = tuple[FlatTree, str, Any, Any]


def builtin_names() -> tuple[str, ...]:
    """Return the names of the trees that come with the package."""
    return tuple(sorted(path.stem for path in LIBRARY.glob("*.yaml")))


def read(source: str | os.PathLike[str]) -> FileContent:
    """Read a built-in tree by name, or a file by path."""
    text = os.fspath(source)
    if text in builtin_names():
        path = LIBRARY / f"{text}.yaml"
    else:
        path = Path(text).expanduser()
        if path.suffix.lower() not in SUFFIXES:
            fail(
                f"{text!r} is neither a built-in hierarchy nor a file that ends in"
                f" {', '.join(SUFFIXES)}{suggestion(text, builtin_names())}"
            )
    origin = str(path)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        fail(f"cannot read the hierarchy file: {error.strerror}", origin)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        fail("the file is not UTF-8 text", origin, line)
    if path.suffix.lower() == ".csv":
        return _read_csv(content, origin, path.stem)
    read_text = read_json if path.suffix.lower() == ".json" else read_yaml
    return _read_document(read_text(content, origin), origin, path.stem)


def _read_document(document: Any, origin: str, stem: str) -> FileContent:
    if not isinstance(document, MapNode):
        fail("the file must be a mapping with the key 'tree'", origin, document.line)
    values: dict[str, Any] = {}
    lines: dict[str, int | None] = {}
    for key, value in document.items:
        if not isinstance(key, Scalar):
            fail("a key is a list or a mapping; write it as text", origin, key.line)
        if key.value not in FILE_KEYS:
            fail(f"unknown key {key.text!r}{suggestion(key.text, FILE_KEYS)}", origin, key.line)
        if key.value in values:
            fail(f"key {key.value!r} is repeated{first_seen(lines[key.value])}", origin, key.line)
        values[key.value], lines[key.value] = value, key.line
    if "tree" not in values:
        fail("the key 'tree' is missing", origin, document.line)
    name = values.pop("name", Scalar(None))
    if not isinstance(name, Scalar):
        fail("name is a list or a mapping; write it as text", origin, lines["name"])
    if not isinstance(name.value, str | None):
        fail(f"name: {not_a_string(name)}", origin, name.line)
    flat = flat_from_tree(values.pop("tree"), origin)
    for key, value in values.items():
        if isinstance(value, Scalar) and value.value is None:
            values[key] = None
    title = stem if name.value is None else name.value
    return flat, title, values.get("levels"), values.get("leaf_order")


def _read_csv(content: str, origin: str, stem: str) -> FileContent:
    """Read a table with level columns, a path column, or node and parent columns."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        fail(f"not a csv file: {error}", origin, reader.line_num)
    if not rows:
        fail("the file is empty; name the columns in its first line", origin)
    (header_line, header), rows = rows[0], rows[1:]
    for line, cells in rows:
        if any(cells[len(header) :]):
            fail(f"{len(cells)} cells for {len(header)} columns", origin, line)
        cells[len(header) :] = []
        cells.extend([""] * (len(header) - len(cells)))
    lines = [line for line, _ in rows]
    folded = [column.casefold() for column in header]
    if sorted(folded) == ["node", "parent"]:
        node, parent = folded.index("node"), folded.index("parent")
        pairs = [(cells[node], cells[parent] or None) for _, cells in rows]
        return flat_from_parents(pairs, origin, lines), stem, None, None
    if folded == ["path"]:
        names = [cells[0].split(SEPARATOR) for _, cells in rows]
        return flat_from_rows(names, origin, lines), stem, None, None
    if {"path", "parent"} & set(folded):
        fail(
            f"columns {listing(header)} are not a hierarchy; write one column 'path', or the"
            " columns 'node' and 'parent', or one column per level",
            origin,
            header_line,
        )
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        fail(f"header {header[0]!r} has no commas; separate columns by commas", origin, header_line)
    for title, *column in zip(header, *(cells for _, cells in rows), strict=True):
        if title and title in column:  # the first line is a row, which would be lost
            fail(
                f"{title!r} is the name of a column and of a node in it; name the columns in the"
                " first line, such as group,class",
                origin,
                header_line,
            )
    names = []
    for line, cells in rows:
        while not cells[-1]:
            cells.pop()
        if "" in cells:
            fail(f"empty cell before {cells[-1]!r}; a row is a path without gaps", origin, line)
        names.append(cells)
    levels = ListNode([Scalar(name, name, header_line) for name in header], header_line)
    return flat_from_rows(names, origin, lines), stem, levels, None
