"""Convert every form of a class tree to one flat list of nodes.

No function here is recursive, so trees may be thousands of levels deep.
"""

import graphlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NoReturn

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy.messages import fail, first_seen, suggestion

SEPARATOR = "/"
MAX_NAME_LENGTH = 255  # far below the 1024 characters that a YAML key may have


@dataclass(frozen=True)
class Scalar:
    """A single value of a file: as parsed, as written, and its line."""

    value: Any
    text: str | None = None  # None if it is not from a file
    line: int | None = None


@dataclass(frozen=True)
class MapNode:
    """A mapping of a file, with duplicate keys."""

    items: list[tuple[Any, Any]]
    line: int | None = None


@dataclass(frozen=True)
class ListNode:
    """A list of a file."""

    items: list[Any]
    line: int | None = None


@dataclass
class FlatTree:
    """Nodes in order of appearance, with the index of each one's parent (-1 at the top)."""

    origin: str = ""
    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    lines: list[int | None] = field(default_factory=list)

    def add(self, name: str, parent: int, line: int | None) -> int:
        self.names.append(str.__str__(name))  # a plain str, also from numpy
        self.parents.append(parent)
        self.lines.append(line)
        return len(self.names) - 1

    def path(self, index: int) -> str:
        parts = []
        while index >= 0:
            parts.append(self.names[index])
            index = self.parents[index]
        return SEPARATOR.join(reversed(parts))

    def inside(self, parent: int) -> str:
        """Return "in group 'a/b'", or "at the top level" for the children of -1."""
        return f"in group {self.path(parent)!r}" if parent >= 0 else "at the top level"

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        fail(message, self.origin, line)


def view(value: Any) -> Scalar | MapNode | ListNode:
    """Convert the outermost layer of plain Python data to nodes of a file."""
    if isinstance(value, (Scalar, MapNode, ListNode)):
        return value
    if isinstance(value, Mapping):
        return MapNode(list(value.items()))
    if isinstance(value, (list, tuple)):
        return ListNode(list(value))
    return Scalar(value)


def view_list(value: Any, key: str, origin: str) -> tuple[list[Scalar], int | None]:
    """Return the strings of a list, the value of `key`, and its line."""
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        value = list(value)
    node = view(value)
    items = list(map(view, node.items)) if isinstance(node, ListNode) else [node]
    for item in items:
        if not isinstance(item, Scalar) or not isinstance(node, ListNode):
            fail(f"{key} must be a list of names", origin, item.line)
        if not isinstance(item.value, str):
            fail(f"{key}: {not_a_string(item)}", origin, item.line)
    return items, node.line


def not_a_string(scalar: Scalar) -> str:
    """Return an error message for a value that should be a string."""
    if scalar.text is None:
        return (
            f"{scalar.value!r} is of type {type(scalar.value).__name__}, not a string; quote it"
            " (YAML reads unquoted no, on, 1 and 2020-01-01 as other types)"
        )
    if scalar.value is NotImplemented:
        read = "a special word"
    else:
        read = f"{type(scalar.value).__name__} {scalar.value!s}"
    return f'{scalar.text} is read as {read}, not as a string; quote it, "{scalar.text}"'


def name_problem(name: str) -> str | None:
    """Return an error message for an invalid name of a node; None for a valid one."""
    if not name.strip():
        return "a name is empty"
    if SEPARATOR in name:
        fixed = name.replace(SEPARATOR, "-")
        return (
            f'name {name!r} contains "{SEPARATOR}", which separates the names of a path;'
            f" write {fixed!r} or nest the nodes"
        )
    if name != name.strip():
        return f"name {name!r} begins or ends with white space; write {name.strip()!r}"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return f"name {name!r} contains a control character"
    if len(name) > MAX_NAME_LENGTH:
        return f"name {name[:40]!r}... has {len(name)} characters; {MAX_NAME_LENGTH} are allowed"
    return None


def checked_name(flat: FlatTree, key: Any, parent: int) -> Scalar:
    """Return the scalar of a valid node name; errors name its group."""
    scalar = view(key)
    if not isinstance(scalar, Scalar):
        flat.fail(f"{flat.inside(parent)}: a name is a list or a mapping; write text", scalar.line)
    if scalar.value is None and not scalar.text:
        flat.fail(f"{flat.inside(parent)}: an entry without a name", scalar.line)
    if not isinstance(scalar.value, str):
        flat.fail(f"{flat.inside(parent)}: name {not_a_string(scalar)}", scalar.line)
    problem = name_problem(scalar.value)
    if problem:
        flat.fail(f"{flat.inside(parent)}: {problem}", scalar.line)
    return scalar


def flat_from_tree(tree: Any, origin: str = "") -> FlatTree:
    """Read nested mappings, lists and None (the ``tree`` of a file, or of ``from_dict``)."""
    flat = FlatTree(origin)
    top = view(tree)
    if isinstance(top, Scalar):
        if top.value is not None:
            flat.fail(f"the tree is {top.value!r}; expected a mapping or a list", top.line)
        return flat
    seen: dict[tuple[int, str], int] = {}
    stack = [(_entries(flat, top, -1), -1, tree)]
    while stack:
        entries, parent, _ = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        key, value = entry
        name = checked_name(flat, key, parent)
        index = flat.add(name.value, parent, name.line)
        first = seen.setdefault((parent, name.value), index)
        if first != index:
            also = first_seen(flat.lines[first])
            flat.fail(f"duplicate path {flat.path(index)!r}{also}", name.line)
        node = view(value)
        if isinstance(node, Scalar):
            if node.value is not None:
                shown = repr(node.value) if node.text is None else repr(node.text)
                flat.fail(
                    f"the value of {flat.path(index)!r} is {shown}; write [{shown}] for one child,"
                    " a mapping or list for several, nothing for a leaf",
                    node.line or name.line,
                )
            continue
        if not node.items:
            flat.fail(
                f"group {flat.path(index)!r} is empty; give it children, or no value for a leaf",
                name.line,
            )
        if any(value is container for *_, container in stack):  # of Python data; files cannot
            flat.fail(f"cycle: {flat.path(index)!r} contains itself", name.line)
        stack.append((_entries(flat, node, index), index, value))
    return flat


def _entries(flat: FlatTree, node: MapNode | ListNode, parent: int) -> Iterator[tuple[Any, Any]]:
    """Yield (name, value) of a group; strings in a list are leaves, mappings in it are groups."""
    if isinstance(node, MapNode):
        yield from node.items
        return
    for item in node.items:
        inside = view(item)
        if isinstance(inside, Scalar):
            yield inside, None
        elif isinstance(inside, ListNode):
            complaint = "nested lists are not allowed; name the inner group, such as {name: [...]}"
            flat.fail(f"{flat.inside(parent)}: {complaint}", inside.line)
        elif not inside.items:
            flat.fail(f"{flat.inside(parent)}: an empty mapping in a list", inside.line)
        else:
            yield from inside.items


def flat_from_paths(paths: Iterable[Any], sep: str = SEPARATOR) -> FlatTree:
    """Read paths of names with separators between them."""
    if isinstance(paths, str):
        raise HierarchyError(f"expected a list of paths, not {paths!r}")
    return flat_from_rows([path.split(sep) for path in paths])


def flat_from_rows(
    rows: Sequence[Sequence[str]], origin: str = "", lines: Sequence[int] | None = None
) -> FlatTree:
    """Read rows of names from the top down; nodes are in the order in which they first appear.

    A row that is a prefix of others is a group; groups need not be listed.
    """
    flat = FlatTree(origin)
    index_of: dict[tuple[int, str], int] = {}
    listed: dict[int, int | None] = {}
    for row, line in zip(rows, lines or repeat(None), strict=False):
        node = -1
        for name in row:
            child = index_of.get((node, name))
            if child is None:
                problem = name_problem(name)
                if problem:
                    flat.fail(f"path {SEPARATOR.join(row)!r}: {problem}", line)
                child = index_of[node, name] = flat.add(name, node, line)
            node = child
        if node in listed:
            also = first_seen(listed[node])
            flat.fail(f"duplicate path {flat.path(node)!r}{also}", line)
        listed[node] = line
    return flat


def flat_from_parents(
    items: Iterable[tuple[Any, Any]],
    origin: str = "",
    lines: Sequence[int | None] | None = None,
) -> FlatTree:
    """Read (node, parent or None) pairs; every parent must itself be listed as a node."""
    flat = FlatTree(origin)
    wanted: list[Any] = []
    index_of: dict[str, int] = {}
    for (key, parent), line in zip(items, lines or repeat(None), strict=False):
        name = checked_name(flat, Scalar(key, None, line), -1).value
        if name in index_of:
            first = index_of[name]
            also = first_seen(flat.lines[first])
            if parent == wanted[first]:
                flat.fail(f"duplicate node {name!r}{also}", line)
            flat.fail(
                f"node {name!r} has two parents, {wanted[first]!r} and {parent!r}{also}", line
            )
        index_of[name] = flat.add(name, -1, line)
        wanted.append(parent)
    for index, parent in enumerate(wanted):
        if parent is None:
            continue
        if parent not in index_of:
            flat.fail(
                f"parent {parent!r} of node {flat.names[index]!r} is not listed as a node; add it,"
                f" without a parent if it is at the top{suggestion(str(parent), index_of)}",
                flat.lines[index],
            )
        flat.parents[index] = index_of[parent]
    try:
        graphlib.TopologicalSorter({i: [above] for i, above in enumerate(flat.parents)}).prepare()
    except graphlib.CycleError as error:
        ring = error.args[1][:0:-1]  # each before its parent
        start = ring.index(min(ring))
        ring = [flat.names[index] for index in (*ring[start:], *ring[: start + 1])]
        flat.fail(f"cycle: {' -> '.join(ring)} (child -> parent)", flat.lines[min(error.args[1])])
    return flat
