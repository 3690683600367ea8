"""Draw all levels side by side: the image, one overlay per level, and the tree as legend."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.visualization.legend import INK, PAPER, columns_that_fit, legend
from hiera_seg.visualization.overlay import cut_at_levels, overlay_labels, overlay_mistakes
from hiera_seg.visualization.text import draw_text, shorten

# In pixels. Panels have the width of the image, limited to this range for readable names and small
# files.
_PANEL_WIDTHS = (360, 720)
_TITLE = 17
_LEGEND_HEIGHT = 330  # more columns are used only for taller legends
_GAP = 8


def draw_levels(
    image: np.ndarray,
    hiera_labels: Sequence[np.ndarray],
    hierarchy: Hierarchy,
    *,
    truth: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    alpha: float = 0.55,
    with_legend: bool = True,
    width: int | None = None,
) -> np.ndarray:
    """Draw an image and its label maps of all levels side by side, with titles.

    Args:
        image: (H, W, 3) uint8, RGB.
        hiera_labels: one (H, W) integer map of node ids per level, coarse to fine; values outside
            the tree are void.
        hierarchy: the tree of the ids.
        truth: (H, W) integer node ids at any depth. Adds a second row with the mistakes and the
            true labels of each level.
        colors: (N, 3) uint8 RGB, one per node; default: ``tree_colors(hierarchy)``.
        alpha: opacity of the colors, 0..1.
        with_legend: whether to draw the tree below, with the visible nodes highlighted.
        width: of each panel in pixels; default: that of the image, but within 360..720.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        ValueError: the number of maps is not that of the levels, or a map has another size.
    """
    if len(hiera_labels) != hierarchy.num_levels:
        raise ValueError(
            f"{len(hiera_labels)} label maps for the {hierarchy.num_levels} levels of tree "
            f"{hierarchy.name!r}; pass one per level"
        )
    colors = tree_colors(hierarchy) if colors is None else np.asarray(colors)
    width = width or int(np.clip(image.shape[1], *_PANEL_WIDTHS))
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if width < image.shape[1] else
                         cv2.INTER_CUBIC)  # fmt: skip

    def fit(labels: np.ndarray) -> np.ndarray:
        return cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)

    def overlay(labels: np.ndarray) -> np.ndarray:
        return overlay_labels(resized, labels, hierarchy, colors, alpha, names=True)

    predicted = [fit(labels) for labels in hiera_labels]
    rows = [[("image", resized)]]
    for name, labels in zip(hierarchy.level_names, predicted, strict=True):
        title = name if truth is None else f"{name}, prediction"
        rows[0].append((title, overlay(labels)))
    present = {int(node) for labels in predicted for node in np.unique(labels)}
    if truth is not None:
        truth = fit(truth)
        mistakes = overlay_mistakes(resized, predicted[-1], truth, hierarchy)
        rows.append([("mistakes: yellow near, red far", mistakes)])
        for name, labels in zip(
            hierarchy.level_names, cut_at_levels(truth, hierarchy), strict=True
        ):
            rows[1].append((f"{name}, ground truth", overlay(labels)))
            present.update(int(node) for node in np.unique(labels))
    sheet = np.concatenate([_row(panels) for panels in rows])
    if not with_legend:
        return sheet
    present &= set(range(hierarchy.num_nodes))
    room = max(sheet.shape[0] // 2, _LEGEND_HEIGHT), sheet.shape[1]
    columns = columns_that_fit(hierarchy, *room)
    parts = sheet, legend(hierarchy, present, colors, columns=columns)
    width = max(part.shape[1] for part in parts)
    padding = [((0, 0), (0, width - part.shape[1]), (0, 0)) for part in parts]
    padded = [np.pad(x, p, constant_values=PAPER[0]) for x, p in zip(parts, padding, strict=True)]
    return np.concatenate(padded)


def _row(panels: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Draw panels of equal size side by side, each below its title."""
    height, width = panels[0][1].shape[:2]
    bar = 2 * _TITLE
    canvas = Image.new("RGB", (_GAP + len(panels) * (width + _GAP), height + bar + _GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (title, panel) in enumerate(panels):
        left = _GAP + index * (width + _GAP)
        canvas.paste(Image.fromarray(panel), (left, bar))
        title = shorten(title, width, _TITLE, bold=True)
        draw_text(draw, (left + 2, bar / 2), title, _TITLE, INK, bold=True)
    return np.asarray(canvas)
