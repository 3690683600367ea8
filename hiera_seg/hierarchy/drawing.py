"""Draw a class tree as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiera_seg.hierarchy.tree import Hierarchy


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
