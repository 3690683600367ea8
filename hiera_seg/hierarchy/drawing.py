"""Draw a class tree as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiera_seg.hierarchy.tree import Hierarchy


def draw(hierarchy: Hierarchy) -> str:
    """Return a heading and one line per node, with branches, name and node id."""
    h = hierarchy
    title = f"{h.name or 'hierarchy'}: {h.num_nodes} nodes, {h.num_leaves} leaves"
    if h.num_levels > 8:
        levels = f"{h.num_levels} levels"
    else:
        levels = f"levels {' > '.join(h.level_names)}"
    lines = [f"{title}, {levels}"]
    stack: list[tuple[int, str, bool]] = []  # node, indent, whether it is the last sibling

    def push(children: tuple[int, ...], indent: str) -> None:
        stack.extend((node, indent, node == children[-1]) for node in reversed(children))

    push(h.children(-1), "")
    while stack:
        node, indent, is_last = stack.pop()
        lines.append(f"{indent}{'└── ' if is_last else '├── '}{h.node_names[node]} [{node}]")
        push(h.children(node), indent + ("    " if is_last else "│   "))
    return "\n".join(lines)
