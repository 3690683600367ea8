"""Draw a tree as a legend: swatches, names, and lines from parents to children."""

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.visualization.text import draw_text, text_width

PAPER = (255, 255, 255)
INK = (25, 25, 25)
FAINT = (170, 170, 170)
LINE = (150, 150, 150)


def legend(
    hierarchy: Hierarchy,
    present: Iterable[int] | None = None,
    colors: np.ndarray | None = None,
    *,
    columns: int = 1,
    ids: bool = False,
    size: int = 14,
) -> np.ndarray:
    """Draw the tree of classes as a legend.

    Args:
        hierarchy: the tree.
        present: node ids to highlight with their ancestors; others are pale. None: all nodes.
        colors: (N, 3) uint8 RGB, one per node; default: ``tree_colors(hierarchy)``.
        columns: number of columns. A column that starts inside a group repeats the ancestors of
            its first row.
        ids: whether to write the node ids behind the names.
        size: height of the text in pixels.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    colors = tree_colors(hierarchy) if colors is None else np.asarray(colors)
    shown = set(range(hierarchy.num_nodes))
    if present is not None:
        shown = {above for node in present for above in hierarchy.ancestors(int(node))}
    blocks, widths, (height, width) = _layout(hierarchy, columns, ids, size)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    left = size
    for block, block_width in zip(blocks, widths, strict=True):
        _draw_column(draw, hierarchy, block, shown, colors, (left, size), size, ids)
        left += block_width + 2 * size
    return np.asarray(canvas).copy()


def columns_that_fit(
    hierarchy: Hierarchy, height: int, width: int, *, ids: bool = False, size: int = 14
) -> int:
    """Return the fewest columns of a legend up to `height`, or as many as fit into `width`."""
    # More columns are not lower, because each must have room for a path from the top to a leaf
    most = -(-hierarchy.num_nodes // hierarchy.num_levels)
    for columns in range(1, most):
        if _layout(hierarchy, columns, ids, size)[2][0] <= height:
            return columns
        if _layout(hierarchy, columns + 1, ids, size)[2][1] > width:
            return columns
    return max(1, most)


def _layout(
    hierarchy: Hierarchy, columns: int, ids: bool, size: int
) -> tuple[list[list[int]], list[int], tuple[int, int]]:
    """Return the nodes and width of each column, and the height and width of the legend."""
    blocks = _columns(hierarchy, max(1, columns))
    widths = [
        max(
            int(hierarchy.depth[node]) * _indent(size)
            + text_width(_label(hierarchy, node, ids), size, True)
            for node in block
        )
        + round(1.5 * size)
        for block in blocks
    ]
    height = 2 * size + _pitch(size) * max(len(block) for block in blocks)
    return blocks, widths, (height, sum(widths) + 2 * size * len(blocks))


def _columns(hierarchy: Hierarchy, columns: int) -> list[list[int]]:
    """Split the nodes, in depth-first order, into at most `columns` columns."""
    order = hierarchy.depth_first.tolist()
    # Each column must have room for a path from the top to a leaf
    rows = max(-(-len(order) // columns), hierarchy.num_levels)
    while len(blocks := _fill(hierarchy, order, rows)) > columns:
        rows += 1
    return blocks


def _fill(hierarchy: Hierarchy, order: list[int], rows: int) -> list[list[int]]:
    blocks: list[list[int]] = [[]]
    for index, node in enumerate(order):
        # An inner node must not be the last row of a column, apart from its children
        inner = index
        while hierarchy.children(order[inner]):
            inner += 1
        if blocks[-1] and len(blocks[-1]) + inner - index + 1 > rows:
            blocks.append(list(hierarchy.path(node)[:-1]))
        blocks[-1].append(node)
    return blocks


def _draw_column(
    draw: ImageDraw.ImageDraw,
    hierarchy: Hierarchy,
    block: list[int],
    shown: set[int],
    colors: np.ndarray,
    corner: tuple[int, int],
    size: int,
    ids: bool,
) -> None:
    pitch, indent, swatch = _pitch(size), _indent(size), size
    row_of = {node: row for row, node in enumerate(block)}

    def left_of(node: int) -> int:
        return corner[0] + int(hierarchy.depth[node]) * indent

    def middle_of(node: int) -> int:
        return corner[1] + row_of[node] * pitch + pitch // 2

    for node in block:
        parent = int(hierarchy.parent[node])
        if parent in row_of:
            x, y = left_of(parent) + swatch // 2, middle_of(node)
            elbow = [(x, middle_of(parent) + swatch // 2 + 2), (x, y), (left_of(node) - 3, y)]
            draw.line(elbow, fill=LINE, width=max(1, size // 14))
    for node in block:
        x, y = left_of(node), middle_of(node)
        color = np.asarray(colors[node], dtype=float)
        full = node in shown
        if not full:
            color = 0.2 * color + 0.8 * np.array(PAPER)
        box = [x, y - swatch // 2, x + swatch, y + swatch // 2]
        fill = tuple(int(value) for value in color)
        draw.rectangle(box, fill=fill, outline=INK if full else FAINT)
        inner = bool(hierarchy.children(node))
        at, ink = (x + round(1.5 * size), y), INK if full else FAINT
        draw_text(draw, at, _label(hierarchy, node, ids), size, ink, bold=inner)


def _pitch(size: int) -> int:
    return round(1.55 * size)


def _indent(size: int) -> int:
    return round(1.6 * size)


def _label(hierarchy: Hierarchy, node: int, ids: bool) -> str:
    return f"{hierarchy.node_names[node]} [{node}]" if ids else hierarchy.node_names[node]
