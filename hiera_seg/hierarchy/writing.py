"""Write a class tree as plain data, as YAML text in a readable layout, and as a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from hiera_seg.hierarchy.tree import Hierarchy

_WIDTH = 100
_DEEPEST_BLOCK = 30  # deeper trees are one line of braces: indentation would be most of the file


def draw(hierarchy: Hierarchy) -> str:
    """Return a heading and one line per node, with branches, name and node id."""
    h = hierarchy
    title = f"{h.name or 'hierarchy'}: {h.num_nodes} nodes, {h.num_leaves} leaves"
    lines = [f"{title}, levels {' > '.join(h.level_names)}"]
    indents = [""] * (h.num_levels + 1)  # by depth, of the current path
    for node in h.depth_first.tolist():
        depth, is_last = h.depth[node], node == h.children(int(h.parent[node]))[-1]
        indents[depth + 1] = indents[depth] + ("    " if is_last else "│   ")
        branch = "└── " if is_last else "├── "
        lines.append(f"{indents[depth]}{branch}{h.node_names[node]} [{node}]")
    return "\n".join(lines)


def nested(hierarchy: Hierarchy) -> dict[str, Any] | list[str]:
    """Return the nodes as nested dicts; children that are all leaves are lists of names."""
    h = hierarchy
    built: list[Any] = [None] * (h.num_nodes + 1)
    inner = sorted(range(h.num_leaves, h.num_nodes), key=lambda node: -h.depth[node])
    for node in (*inner, -1):
        children = h.children(node)
        if all(child < h.num_leaves for child in children):
            built[node] = [h.node_names[child] for child in children]
        else:
            built[node] = {h.node_names[child]: built[child] for child in children}
    return built[-1]


def yaml_text(hierarchy: Hierarchy) -> str:
    """Return the text of a hierarchy file that reads back equal."""
    in_blocks = hierarchy.num_levels <= _DEEPEST_BLOCK
    return yaml.emit(
        _events(hierarchy, in_blocks),
        Dumper=yaml.SafeDumper,
        allow_unicode=True,
        width=_WIDTH if in_blocks else float("inf"),
    )


def _events(hierarchy: Hierarchy, in_blocks: bool) -> Iterator[yaml.Event]:
    """Yield the events of ``yaml.safe_dump``, which is recursive and cannot write deep trees."""
    h, data = hierarchy, hierarchy.to_dict()
    yield from (yaml.StreamStartEvent(), yaml.DocumentStartEvent())
    yield yaml.MappingStartEvent(None, None, True, flow_style=False)
    yield from (_text("name"), _text(data["name"]))
    for key in ("levels", "leaf_order"):
        yield from (_text(key), *_list(data[key]))
    yield _text("tree")
    stack: list[int | yaml.Event] = [-1]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.Event):
            yield node
            continue
        if node >= 0:
            yield _text(h.node_names[node])
        children = h.children(node)
        if not children:
            yield yaml.ScalarEvent(None, None, (True, False), "")
        elif all(child < h.num_leaves for child in children):
            yield from _list([h.node_names[child] for child in children])
        else:
            yield yaml.MappingStartEvent(None, None, True, flow_style=not in_blocks)
            stack += [yaml.MappingEndEvent(), *reversed(children)]
    yield yaml.MappingEndEvent()
    yield from (yaml.DocumentEndEvent(), yaml.StreamEndEvent())


def _list(names: list[str]) -> Iterator[yaml.Event]:
    yield yaml.SequenceStartEvent(None, None, True, flow_style=True)
    yield from map(_text, names)
    yield yaml.SequenceEndEvent()


_RESOLVER = yaml.SafeDumper("")


def _text(text: str) -> yaml.ScalarEvent:
    """Return the event of a string, which is quoted where it would be read as something else."""
    is_text = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str"
    return yaml.ScalarEvent(None, None, (is_text, True), text)
