"""Draw label maps over their image."""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.visualization.text import draw_text, text_width


def overlay_labels(
    image: np.ndarray,
    labels: np.ndarray,
    hierarchy: Hierarchy,
    colors: np.ndarray | None = None,
    alpha: float = 0.55,
    *,
    boundaries: bool = True,
    names: bool = False,
) -> np.ndarray:
    """Draw a map of node ids over an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integer node ids; any other value is void and transparent.
        hierarchy: the tree of the ids.
        colors: (N, 3) uint8 RGB, one per node; default: ``tree_colors(hierarchy)``.
        alpha: opacity of the colors, 0..1.
        boundaries: whether to draw a thin line between different labels.
        names: whether to write the name of the node into every region that is large enough.

    Returns:
        (H, W, 3) uint8, RGB; a new array.

    Raises:
        ValueError: a wrong shape or dtype, or an `alpha` outside 0..1.
    """
    _check(image, labels, alpha)
    labels = labels.astype(np.int64)  # unsigned types have no -1
    colors = tree_colors(hierarchy) if colors is None else np.asarray(colors)
    if colors.shape != (hierarchy.num_nodes, 3):
        raise ValueError(
            f"colors have shape {colors.shape}; tree {hierarchy.name!r} needs "
            f"({hierarchy.num_nodes}, 3)"
        )
    valid = (labels >= 0) & (labels < hierarchy.num_nodes)
    ids = np.where(valid, labels, 0)
    # Blending the image with itself keeps void transparent
    painted = np.where(valid[..., None], colors[ids], image).astype(np.uint8)
    result = cv2.addWeighted(np.ascontiguousarray(image), 1 - alpha, painted, alpha, 0)
    if boundaries:
        edge = _boundaries(np.where(valid, labels, -1), thickness=1 + max(labels.shape) // 1500)
        result[edge] = (0.35 * result[edge]).astype(np.uint8)
    if names:
        result = _write_names(result, np.where(valid, labels, -1), hierarchy)
    return result


def overlay_mistakes(
    image: np.ndarray, labels: np.ndarray, truth: np.ndarray, hierarchy: Hierarchy
) -> np.ndarray:
    """Color the wrong pixels by how far in the tree their label is from the true one.

    The color is yellow if the label shares all ancestors with the true one, as a sibling does, red
    if it shares none, and in between by the share of common ancestors. Correct and void pixels are
    gray.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integer node ids.
        truth: (H, W) integer node ids; any other value is void.
        hierarchy: the tree of the ids.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    num_nodes = hierarchy.num_nodes
    known = (truth >= 0) & (truth < num_nodes) & (labels >= 0) & (labels < num_nodes)
    # Descendants of the true node are not wrong: an inner node as truth is a coarse label
    label, true = np.where(known, labels, 0), np.where(known, truth, 0)
    depth = hierarchy.depth
    both = np.minimum(depth[label], depth[true])
    shared = np.zeros(label.shape, np.int64)  # nodes that are on both paths
    for level, ancestor in enumerate(hierarchy.level_ancestor):
        shared += (ancestor[label] == ancestor[true]) & (level <= both)
    wrong = known & (shared <= depth[true])
    severity = 1 - (shared / np.maximum(depth[true], 1))[..., None]
    near, far = np.array([255, 225, 60.0]), np.array([215, 20, 40.0])
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    result = (255 - (255 - grey.astype(np.float32)) * 0.7) * 0.9
    result = np.where(wrong[..., None], near + (far - near) * severity, result)
    return result.astype(np.uint8)


def cut_at_level(labels: np.ndarray, hierarchy: Hierarchy, level: int, void: int) -> np.ndarray:
    """Replace node ids by their ancestors at a level.

    Args:
        labels: (H, W) integer node ids; any other value is void.
        hierarchy: the tree of the ids.
        level: index of the level.
        void: the value of void in the result.

    Returns:
        (H, W) int64. Inner nodes above the level are kept.
    """
    table = hierarchy.level_ancestor[level]
    table = np.where(table < 0, np.arange(hierarchy.num_nodes), table)
    valid = (labels >= 0) & (labels < hierarchy.num_nodes)
    return np.where(valid, table[np.where(valid, labels, 0)], void).astype(np.int64)


def cut_at_levels(labels: np.ndarray, hierarchy: Hierarchy) -> list[np.ndarray]:
    """Return :func:`cut_at_level` of every level, coarse to fine, where void is -1."""
    return [cut_at_level(labels, hierarchy, level, -1) for level in range(hierarchy.num_levels)]


def _check(image: np.ndarray, labels: np.ndarray, alpha: float) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}; it must be uint8 (H, W, 3), RGB")
    if labels.shape != image.shape[:2] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} {labels.shape}; they must be integers {image.shape[:2]}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be in 0..1")


def _boundaries(labels: np.ndarray, thickness: int) -> np.ndarray:
    """Return the pixels whose right or lower neighbor has another label, dilated."""
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    if thickness > 1:
        edge = cv2.dilate(edge, np.ones((thickness, thickness), np.uint8))
    return edge.astype(bool)


def _write_names(image: np.ndarray, labels: np.ndarray, hierarchy: Hierarchy) -> np.ndarray:
    """Write the name of each large region at the point farthest from its boundary."""
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    size = int(np.clip(max(labels.shape) / 45, 10, 40))
    for node in np.unique(labels[labels >= 0]):
        mask = np.pad((labels == node).astype(np.uint8), 1)  # the image border is a boundary
        count, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        text = hierarchy.node_names[node]
        width = text_width(text, size)
        if width + 4 > image.shape[1]:
            continue
        for region in range(1, count):
            x, y, w, h, area = stats[region]
            if w < 0.8 * width or h < 1.2 * size or area < size * width:
                continue
            inside = (regions[y : y + h, x : x + w] == region).astype(np.uint8)
            depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
            row, column = np.unravel_index(int(depth.argmax()), depth.shape)
            if depth[row, column] < 0.7 * size:
                continue
            center = (x - 1 + column, y - 1 + row)
            center = (np.clip(center[0], width / 2 + 2, image.shape[1] - width / 2 - 2), center[1])
            draw_text(draw, center, text, size, (255, 255, 255), anchor="mm", halo=(20, 20, 20))
    return np.asarray(canvas).copy()
