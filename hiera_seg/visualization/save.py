"""The pictures of one image's prediction as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.visualization.overlay import overlay_labels
from hiera_seg.visualization.strip import draw_levels


def save_levels(
    folder: Path,
    stem: str,
    image: np.ndarray,
    hiera_labels: Sequence[np.ndarray],
    hierarchy: Hierarchy,
    *,
    truth: np.ndarray | None = None,
    levels: Sequence[str] | None = None,
    alpha: float = 0.55,
) -> list[Path]:
    """Write an image's label maps as pictures and as plain maps.

    For every level ``<stem>_<level>.png``, the overlay, and ``<stem>-ids-<level>.png``, a grey PNG
    of node ids (16 bits where the tree has more than 255 nodes); and ``<stem>-levels.png``, all
    levels beside each other with the tree as legend. The last two have a ``-``, which no name of a
    level has, so that no two files have one name.

    Args:
        folder: an existing folder.
        stem: how the files' names begin.
        image: (H, W, 3) uint8, RGB.
        hiera_labels: one (H, W) integer map of node ids a level, coarse to fine.
        hierarchy: the tree of the ids.
        truth: (H, W) integer node ids to show beside them in the last file; other values are void.
        levels: names of the levels to write overlays and maps of; default all.
        alpha: opacity of the colours, 0..1.

    Returns:
        The files written.
    """
    dtype = np.uint8 if hierarchy.num_nodes <= 255 else np.uint16
    pictures = {}
    for level, labels in zip(hierarchy.level_names, hiera_labels, strict=True):
        if levels is None or level in levels:
            pictures[f"{stem}_{level}"] = overlay_labels(
                image, labels, hierarchy, alpha=alpha, names=True
            )
            pictures[f"{stem}-ids-{level}"] = labels.astype(dtype)
    pictures[f"{stem}-levels"] = draw_levels(
        image, hiera_labels, hierarchy, truth=truth, alpha=alpha
    )
    paths = []
    for name, picture in pictures.items():
        paths.append(Path(folder) / f"{name}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths
