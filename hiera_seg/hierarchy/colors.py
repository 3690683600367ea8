"""Colours of a class tree."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .tree import Hierarchy


def tree_colors(hierarchy: Hierarchy) -> np.ndarray:
    """Returns one RGB colour a node, uint8 (N, 3); siblings share a hue."""
    h = hierarchy
    colors = np.zeros((h.num_nodes, 3), dtype=np.uint8)
    tops = h.children(-1)
    for i, top in enumerate(tops):
        inside = h.descendants(top)
        for j, node in enumerate(inside):
            value = 0.4 + 0.6 * (j + 1) / len(inside)
            rgb = colorsys.hsv_to_rgb(i / len(tops), 0.75, value)
            colors[node] = [round(255 * c) for c in rgb]
    return colors
