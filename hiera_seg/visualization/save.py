"""The pictures of one image's prediction as files."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hiera_seg.disk import replace_file
from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.visualization.overlay import overlay_labels
from hiera_seg.visualization.strip import draw_levels

KINDS = ("overlay", "labels", "strip")
# How the names of files end, after the stem; the first two before the name of a level.
OVERLAY, LABELS, STRIP = "_", "-ids-", "-levels"
_MOST_IN_PALETTE = 255  # of the 256 colours of a PNG's palette; the last one is left for void


def save_label_map(path: str | os.PathLike, labels: np.ndarray, hierarchy: Hierarchy) -> None:
    """Write a map of node ids as a PNG whose values are the ids.

    Up to 255 nodes: 8 bits with a palette, in which each id has its node's colour of
    ``tree_colors``; readers that give indices (Pillow, this package) see ids, readers that give
    colours (OpenCV, browsers) see the colours. More nodes: 16 bits of grey, which PNG has no
    palette for.

    Args:
        path: of the file.
        labels: (H, W) integer node ids.
        hierarchy: the tree of the ids.

    Raises:
        OSError: the file can not be written.
    """
    if hierarchy.num_nodes > _MOST_IN_PALETTE:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        palette = np.zeros((256, 3), np.uint8)
        palette[: hierarchy.num_nodes] = tree_colors(hierarchy)
        picture.putpalette(palette.tobytes())
    replace_file(path, lambda file: picture.save(file, "PNG"))


def draw_kinds(
    image: np.ndarray,
    hiera_labels: Sequence[np.ndarray],
    hierarchy: Hierarchy,
    *,
    truth: np.ndarray | None = None,
    levels: Collection[str] | None = None,
    alpha: float = 0.55,
    kinds: Collection[str] = KINDS,
) -> dict[str, np.ndarray]:
    """Draw an image's label maps.

    Args:
        image: (H, W, 3) uint8, RGB.
        hiera_labels: one (H, W) integer map of node ids a level, coarse to fine.
        hierarchy: the tree of the ids.
        truth: (H, W) integer node ids to show beside them in the strip; other values are void.
        levels: names of the levels to draw overlays of; default all.
        alpha: opacity of the colours, 0..1.
        kinds: what to draw: "overlay", one a level, and "strip", all levels beside each other with
            the tree as legend.

    Returns:
        (h, w, 3) uint8 RGB pictures by the end of their file's name: ``_<level>`` and ``-levels``.
    """
    pictures = {}
    if "overlay" in kinds:
        for name, labels in zip(hierarchy.level_names, hiera_labels, strict=True):
            if levels is None or name in levels:
                pictures[f"{OVERLAY}{name}"] = overlay_labels(
                    image, labels, hierarchy, alpha=alpha, names=True
                )
    if "strip" in kinds:
        pictures[STRIP] = draw_levels(image, hiera_labels, hierarchy, truth=truth, alpha=alpha)
    return pictures


def save_levels(
    folder: Path,
    stem: str,
    image: np.ndarray,
    hiera_labels: Sequence[np.ndarray],
    hierarchy: Hierarchy,
    *,
    truth: np.ndarray | None = None,
    levels: Collection[str] | None = None,
    alpha: float = 0.55,
    kinds: Collection[str] = KINDS,
) -> list[Path]:
    """Write an image's label maps as pictures (`draw_kinds`) and as plain maps.

    Args:
        folder: an existing folder.
        stem: how the files' names begin.
        image, hiera_labels, hierarchy, truth, levels, alpha: as of `draw_kinds`.
        kinds: also "labels": for each level ``<stem>-ids-<level>.png``, by `save_label_map`.

    Returns:
        The files written.

    Raises:
        OSError: a file can not be written.
    """
    paths = []
    drawn = draw_kinds(
        image, hiera_labels, hierarchy, truth=truth, levels=levels, alpha=alpha, kinds=kinds
    )
    for end, picture in drawn.items():
        paths.append(Path(folder) / f"{stem}{end}.png")
        drawing = Image.fromarray(picture)
        replace_file(paths[-1], lambda file, drawing=drawing: drawing.save(file, "PNG"))
    if "labels" in kinds:
        for name, labels in zip(hierarchy.level_names, hiera_labels, strict=True):
            if levels is None or name in levels:
                paths.append(Path(folder) / f"{stem}{LABELS}{name}.png")
                save_label_map(paths[-1], labels, hierarchy)
    return paths
