"""A class tree as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tree import Hierarchy


def draw(hierarchy: Hierarchy) -> str:
    """Returns a heading and one line a node: lines of the tree, name, node id."""
    h = hierarchy
    title = f"{h.name or 'hierarchy'}: {h.num_nodes} nodes, {h.num_leaves} leaves"
    if h.num_levels > 8:
        levels = f"{h.num_levels} levels"
    else:
        levels = f"levels {' > '.join(h.level_names)}"
    lines = [f"{title}, {levels}"]
    stack = [(node, "") for node in reversed(h.children(-1))]
    last = {row[-1] for row in h._children if row}
    while stack:
        node, indent = stack.pop()
        lines.append(f"{indent}{'└── ' if node in last else '├── '}{h.node_names[node]} [{node}]")
        inside = indent + ("    " if node in last else "│   ")
        stack.extend((child, inside) for child in reversed(h.children(node)))
    return "\n".join(lines)
