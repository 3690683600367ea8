"""Choose colours for the nodes of a class tree, similar for related nodes.

Colours are chosen in OKLCH (lightness, chroma, hue), where equal steps look about equal:
B. Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hiera_seg.hierarchy.tree import Hierarchy

_FIRST_HUE = 25.0  # degrees; centre of the first top-level node's arc
_HUE_GAP = 0.3  # share of an arc of the hue circle that is left empty at its ends
_LIGHTNESS = (0.46, 0.90)  # leaves; darker or lighter colours have hardly any hue
_INNER_LIGHTNESS = (0.54, 0.84)
_TOP_LIGHTNESS = 0.68  # with at most _MANY_TOPS top-level nodes, which differ in hue alone
_MANY_TOPS = 8
_CHROMA = (0.10, 0.20)  # leaves; inner nodes take the upper end
# Fractions of a range by which a value jumps from one node to the next. Multiples of the golden
# ratio are far from all earlier ones; the plastic number's fraction is out of step with them.
_LIGHTNESS_STEP = 0.6180339887498949
_CHROMA_STEP = 0.7548776662466927


def tree_colors(hierarchy: Hierarchy) -> np.ndarray:
    """Return one RGB colour per node, all different (for several hundred nodes at least).

    Every top-level node with its descendants gets an arc of the hue circle, longer for more
    leaves. Within it a leaf's hue follows its position in the tree, so that siblings are
    neighbours; lightness and chroma jump from each leaf to the next to distinguish siblings. An
    inner node has the mean hue of its leaves, high chroma and medium lightness.

    Args:
        hierarchy: tree of N nodes.

    Returns:
        uint8 (N, 3), the same on every call.
    """
    h = hierarchy
    hue, lightness, chroma = (np.zeros(h.num_nodes) for _ in range(3))
    order = h.depth_first  # siblings are neighbours
    starts = np.flatnonzero(h.depth[order] == 0)
    leaves_of = [nodes[nodes < h.num_leaves] for nodes in np.split(order, starts[1:])]
    weights = np.sqrt([len(leaves) for leaves in leaves_of])
    arcs = 360.0 * weights / weights.sum()
    centres = np.cumsum(arcs) - arcs / 2 - arcs[0] / 2 + _FIRST_HUE
    for leaves, arc, centre in zip(leaves_of, arcs, centres, strict=True):
        offset = (np.arange(len(leaves)) + 0.5) / len(leaves) - 0.5
        hue[leaves] = centre + arc * (1 - _HUE_GAP) * offset
    # One sequence over all leaves makes neighbours differ across top-level nodes as well.
    in_order = order[order < h.num_leaves]
    lightness[in_order] = _jumping(h.num_leaves, _LIGHTNESS_STEP, _LIGHTNESS)
    chroma[in_order] = _jumping(h.num_leaves, _CHROMA_STEP, _CHROMA)

    hue = _mean_below(h, hue)
    inner = np.arange(h.num_leaves, h.num_nodes)
    chroma[inner] = _CHROMA[1]
    for start, stop in h.level_slices[:-1]:
        nodes = start + np.argsort(hue[start:stop], kind="stable")
        lightness[nodes] = _jumping(len(nodes), _LIGHTNESS_STEP, _INNER_LIGHTNESS)
    tops = order[starts]
    if len(tops) <= _MANY_TOPS:
        lightness[tops[tops >= h.num_leaves]] = _TOP_LIGHTNESS
    return _all_different(_to_srgb(lightness, chroma, hue), inner.tolist())


def _jumping(count: int, step: float, span: tuple[float, float]) -> np.ndarray:
    """Return values that fill a span evenly, each far from the previous one."""
    return np.interp((0.5 + step * np.arange(count)) % 1, (0, 1), span)


def _mean_below(hierarchy: Hierarchy, values: np.ndarray) -> np.ndarray:
    """Return the mean value of the leaves below each node."""
    total, count = values.copy(), np.ones_like(values)
    total[hierarchy.num_leaves :] = count[hierarchy.num_leaves :] = 0
    for node in np.argsort(-hierarchy.depth, kind="stable").tolist():
        above = hierarchy.parent[node]
        if above >= 0:
            total[above] += total[node]
            count[above] += count[node]
    return total / count


def _to_srgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Convert OKLCH to sRGB, uint8 (N, 3); chroma is reduced where it is outside the gamut."""
    low, high = np.zeros_like(chroma), chroma.copy()
    shown = _linear_rgb(lightness, high, hue)
    fits = ((shown >= 0) & (shown <= 1)).all(axis=1)
    for _ in range(20):
        middle = (low + high) / 2
        linear = _linear_rgb(lightness, middle, hue)
        inside = ((linear >= 0) & (linear <= 1)).all(axis=1)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    linear = _linear_rgb(lightness, np.where(fits, chroma, low), hue).clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


def _linear_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    angle = np.deg2rad(hue)
    a, b = chroma * np.cos(angle), chroma * np.sin(angle)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.stack(
        (
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ),
        axis=1,
    )


def _all_different(colors: np.ndarray, inner: list[int]) -> np.ndarray:
    """Replace repeated colours by the nearest free ones, those of inner nodes first."""
    offsets = sorted(
        product(range(-6, 7), repeat=3), key=lambda by: (max(map(abs, by)), sum(map(abs, by)), by)
    )
    taken: set[tuple[int, ...]] = set()
    for node in (*range(len(colors) - len(inner)), *inner):
        near = (tuple(map(int.__add__, colors[node].tolist(), by)) for by in offsets)
        free = (color for color in near if color not in taken)
        colors[node] = next(color for color in free if min(color) >= 0 and max(color) <= 255)
        taken.add(tuple(colors[node].tolist()))
    return colors
