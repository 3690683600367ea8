"""Draw the labels of one image and write them to files."""

import io
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hiera_seg.disk import replace_file
from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.visualization.geotiff import TiffTags
from hiera_seg.visualization.overlay import overlay_labels
from hiera_seg.visualization.strip import draw_levels

KINDS = ("overlay", "labels", "strip")
# Endings of file names, after the stem; the name of a level follows the first two
OVERLAY, LABELS, STRIP = "_", "-ids-", "-levels"
_PALETTE_SIZE = 255  # of the 256 colours of a PNG palette; the last one is for void


def file_names(stem: str, hierarchy: Hierarchy) -> Iterator[str]:
    """Yield the names, without suffix, of all files that an image may be written to."""
    yield f"{stem}{STRIP}"
    for level in hierarchy.level_names:
        yield f"{stem}{OVERLAY}{level}"
        yield f"{stem}{LABELS}{level}"


def save_label_map(
    path: str | os.PathLike,
    labels: np.ndarray,
    hierarchy: Hierarchy,
    *,
    geo_tags: TiffTags | None = None,
) -> None:
    """Write a map of node ids as a PNG, or with `geo_tags` as a GeoTIFF, whose values are the ids.

    Trees of up to 255 nodes use 8 bits and a palette of ``tree_colors``: readers that return
    indices (Pillow, this package) get the ids, readers that return colors (OpenCV, browsers) get
    the colors. Larger trees use 16-bit grayscale, which has no palette in PNG.

    Args:
        path: path of the file.
        labels: (H, W) integer node ids.
        hierarchy: the tree of the ids.
        geo_tags: see :func:`~hiera_seg.visualization.geotiff.read_geo_tags`.

    Raises:
        OSError: the file cannot be written.
        ValueError: the tree has more than 65,536 nodes.
    """
    if hierarchy.num_nodes > 1 << 16:
        raise ValueError(
            f"{path}: tree {hierarchy.name!r} has {hierarchy.num_nodes} nodes, whose ids do not "
            "fit 16 bits; save arrays"
        )
    palette = None
    if hierarchy.num_nodes <= _PALETTE_SIZE:
        palette = np.zeros((256, 3), np.uint8)
        palette[: hierarchy.num_nodes] = tree_colors(hierarchy)
    labels = labels.astype(np.uint16 if palette is None else np.uint8)
    _save(path, labels, geo_tags, palette)


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
    """Draw the label maps of an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        hiera_labels: one (H, W) integer map of node ids per level, coarse to fine.
        hierarchy: the tree of the ids.
        truth: (H, W) integer node ids to show in the strip; other values are void.
        levels: names of the levels of which to draw overlays; default: all.
        alpha: opacity of the colors, 0..1.
        kinds: "overlay" draws one image per level, "strip" draws :func:`draw_levels`.

    Returns:
        (h, w, 3) uint8 RGB images, by the end of their file name: ``_<level>`` and ``-levels``.
    """
    drawn = {}
    if "overlay" in kinds:
        for name, labels in zip(hierarchy.level_names, hiera_labels, strict=True):
            if levels is None or name in levels:
                drawn[f"{OVERLAY}{name}"] = overlay_labels(
                    image, labels, hierarchy, alpha=alpha, names=True
                )
    if "strip" in kinds:
        drawn[STRIP] = draw_levels(image, hiera_labels, hierarchy, truth=truth, alpha=alpha)
    return drawn


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
    geo_tags: TiffTags | None = None,
) -> list[Path]:
    """Write what :func:`draw_kinds` draws, and plain label maps.

    Args:
        folder: an existing folder.
        stem: start of the file names.
        image, hiera_labels, hierarchy, truth, levels, alpha: see :func:`draw_kinds`.
        kinds: also "labels", which writes ``<stem>-ids-<level>.png`` with :func:`save_label_map`.
        geo_tags: of the image; overlays and label maps become ``.tif`` files that have them.

    Returns:
        The written files.

    Raises:
        OSError: a file cannot be written.
    """
    paths = []
    drawn = draw_kinds(
        image, hiera_labels, hierarchy, truth=truth, levels=levels, alpha=alpha, kinds=kinds
    )
    for end, drawing in drawn.items():
        tags = None if end == STRIP else geo_tags
        paths.append(Path(folder) / f"{stem}{end}{'.tif' if tags else '.png'}")
        _save(paths[-1], drawing, tags)
    if "labels" in kinds:
        for name, labels in zip(hierarchy.level_names, hiera_labels, strict=True):
            if levels is None or name in levels:
                suffix = ".tif" if geo_tags else ".png"
                paths.append(Path(folder) / f"{stem}{LABELS}{name}{suffix}")
                save_label_map(paths[-1], labels, hierarchy, geo_tags=geo_tags)
    return paths


def _save(
    path: str | os.PathLike,
    pixels: np.ndarray,
    geo_tags: TiffTags | None,
    palette: np.ndarray | None = None,
) -> None:
    """Write pixels without loss, as a GeoTIFF if there are tags, otherwise as a PNG."""
    image, content = Image.fromarray(pixels), io.BytesIO()
    if palette is not None:
        image.putpalette(palette.tobytes())
    if geo_tags:
        image.save(content, "TIFF", compression="tiff_adobe_deflate", tiffinfo=geo_tags)
    else:
        image.save(content, "PNG")
    replace_file(path, lambda file: file.write(content.getbuffer()))
