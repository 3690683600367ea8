"""A class tree as YAML text, laid out as a person would write it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from hiera_seg.hierarchy.tree import Hierarchy

_WIDTH = 100
_DEEPEST_BLOCK = 30  # below this, indentation would be most of the file
_SAFE = re.compile(r"[A-Za-z_]([A-Za-z0-9_ .-]*[A-Za-z0-9_])?")

_RESOLVER = yaml.SafeLoader("")


def yaml_text(hierarchy: Hierarchy) -> str:
    """Returns the text of a hierarchy file that reads back equal."""
    data = hierarchy.to_dict()
    lines = [f"name: {_quoted(data['name'])}"]
    for key in ("levels", "leaf_order"):
        names = [_quoted(name) for name in data[key]]
        lines.extend(_wrapped([f"{key}: [", *_commas(names), "]"]))
    if hierarchy.num_levels > _DEEPEST_BLOCK:
        lines.extend(_wrapped(["tree: ", *_flow(hierarchy)]))
    else:
        lines.append("tree:")
        lines.extend(_block(hierarchy))
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Returns the text as a YAML scalar, in quotes where it would be read as something else."""
    if _SAFE.fullmatch(text):
        if _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str":
            return text
    dumped = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return dumped.rstrip("\n")


def _commas(names: list[str]) -> Iterable[str]:
    for name in names[:-1]:
        yield f"{name}, "
    yield names[-1]


def _wrapped(pieces: Iterable[str], indent: str = "") -> list[str]:
    """Joins pieces of a flow collection to lines of readable width."""
    lines = [indent]
    for piece in pieces:
        if len(lines[-1]) + len(piece.rstrip()) > _WIDTH and lines[-1].strip():
            lines[-1] = lines[-1].rstrip()
            lines.append(indent + "  ")
        lines[-1] += piece
    return lines


def _block(hierarchy: Hierarchy) -> Iterable[str]:
    """Yields one line a node; a group of leaves only is a list on the line of the group."""
    h = hierarchy
    if all(node < h.num_leaves for node in h.children(-1)):
        yield from (f"  - {_quoted(h.node_names[node])}" for node in h.children(-1))
        return
    stack = list(reversed(h.children(-1)))
    while stack:
        node = stack.pop()
        indent = "  " * (int(h.depth[node]) + 1)
        name = _quoted(h.node_names[node])
        children = h.children(node)
        if children and all(child < h.num_leaves for child in children):
            names = [_quoted(h.node_names[child]) for child in children]
            yield from _wrapped([f"{name}: [", *_commas(names), "]"], indent)
        else:
            yield f"{indent}{name}:"
            stack.extend(reversed(children))


def _flow(hierarchy: Hierarchy) -> Iterable[str]:
    """Yields the pieces of the whole tree in braces."""
    h = hierarchy
    stack: list[int | str] = ["}", *reversed(h.children(-1)), "{"]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
            continue
        name, children = _quoted(h.node_names[node]), h.children(node)
        if not children:
            yield f"{name}: null, "
        else:
            yield f"{name}: "
            stack.extend(["}, ", *reversed(children), "{"])
