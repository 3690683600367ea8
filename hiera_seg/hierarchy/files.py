"""Hierarchy files: which form a file has, what stands in it, and writing one."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import fail, listing, suggestion
from .inputs import (
    FlatTree,
    MapNode,
    Scalar,
    flat_from_parents,
    flat_from_paths,
    flat_from_tree,
    not_a_string,
)
from .markup import read_json, read_yaml

if TYPE_CHECKING:
    from .tree import Hierarchy

FILE_KEYS = ("tree", "name", "levels", "leaf_order")
LIBRARY = Path(__file__).with_name("library")
SUFFIXES = (".yaml", ".yml", ".json", ".csv")


@dataclass(frozen=True)
class FileContent:
    """What a hierarchy file says; None for a key that is not there."""

    flat: FlatTree
    stem: str
    name: str | None = None
    levels: Any = None
    leaf_order: Any = None


def builtin_names() -> tuple[str, ...]:
    """Returns the names of the trees that come with the package."""
    return tuple(sorted(path.stem for path in LIBRARY.glob("*.yaml")))


def read(source: str | os.PathLike[str]) -> FileContent:
    """Reads a built-in tree by name or a file by path."""
    try:
        text = os.fspath(source)
    except TypeError:
        fail(f"a hierarchy is loaded from a name or a path, not from {source!r}")
    if text in builtin_names():
        path = LIBRARY / f"{text}.yaml"
    else:
        path = Path(text).expanduser()
        if path.suffix.lower() not in SUFFIXES:
            fail(
                f"{text!r} is neither a built-in hierarchy (there are: {listing(builtin_names(), 99)})"
                f" nor a file that ends in {', '.join(SUFFIXES)}{_near_builtin(text)}"
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


def _near_builtin(text: str) -> str:
    near = suggestion(text, builtin_names())
    return near if near.startswith("; nearest") else ""


def _read_document(document: Any, origin: str, stem: str) -> FileContent:
    if not isinstance(document, MapNode):
        fail("the file must be a mapping with the key 'tree'", origin, document.line)
    values: dict[str, Any] = {}
    lines: dict[str, int | None] = {}
    for key, value in document.items:
        if key.value not in FILE_KEYS:
            near = suggestion(str(key.value), FILE_KEYS)
            fail(f"unknown key {key.text!r}{near}", origin, key.line)
        if key.value in values:
            fail(f"key {key.value!r} is there twice (first on line {lines[key.value]})", origin, key.line)
        values[key.value] = value
        lines[key.value] = key.line
    if "tree" not in values:
        fail("the key 'tree' is missing", origin, document.line)
    name = values.get("name")
    if name is not None:
        if not isinstance(name, Scalar):
            fail("name must be a string", origin, lines["name"])
        if name.value is not None and not isinstance(name.value, str):
            fail(f"name: {not_a_string(name)}", origin, name.line)
    optional = {
        key: None if isinstance(value, Scalar) and value.value is None else value
        for key, value in values.items()
    }
    return FileContent(
        flat_from_tree(values["tree"], origin),
        stem,
        name.value if name is not None else None,
        optional.get("levels"),
        optional.get("leaf_order"),
    )


def _read_csv(content: str, origin: str, stem: str) -> FileContent:
    """Reads one of three tables: level columns, a path column, or node and parent columns."""
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
        fail("the file is empty: its first line names the columns", origin)
    (header_line, header), rows = rows[0], rows[1:]
    for line, cells in rows:
        if len(cells) > len(header) and any(cells[len(header) :]):
            fail(f"{len(cells)} cells under {len(header)} columns", origin, line)
        cells.extend([""] * (len(header) - len(cells)))
    if not rows:
        fail("the tree is empty: there is no line below the header", origin, header_line)
    lines = [line for line, _ in rows]
    if header == ["path"]:
        paths = [cells[0] for _, cells in rows]
        return FileContent(flat_from_paths(paths, origin=origin, lines=lines), stem)
    if sorted(header) == ["node", "parent"]:
        node, parent = header.index("node"), header.index("parent")
        pairs = [(cells[node], cells[parent] or None) for _, cells in rows]
        return FileContent(flat_from_parents(pairs, origin=origin, lines=lines), stem)
    paths = []
    for line, cells in rows:
        names = cells[: len(header)]
        while not names[-1]:
            names.pop()
        if "" in names:
            fail(f"empty cell before {names[-1]!r}: only cells on the right may be empty", origin, line)
        for name in names:
            if "\0" in name:
                fail(f"name {name!r} contains a control character", origin, line)
        paths.append("\0".join(names))
    flat = flat_from_paths(paths, "\0", origin, lines)
    levels = [Scalar(name, name, header_line) for name in header]
    return FileContent(flat, stem, None, levels)


def write_yaml(hierarchy: Hierarchy, path: str | os.PathLike[str]) -> None:
    """Writes the tree as a file that reads back equal."""
    import yaml

    Path(path).write_text(
        yaml.safe_dump(hierarchy.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
