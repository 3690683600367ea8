"""Colours of a tree: families are told apart by hue, siblings by lightness."""

from itertools import permutations, product

import numpy as np
import pytest

from hiera_seg.hierarchy import Hierarchy, builtin_names, tree_colors

# From linear sRGB to OKLab, as published: the way back of what the package computes.
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def oklab(colors):
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ np.transpose(TO_CONES)) @ np.transpose(TO_LAB)


def hues(colors):
    lab = oklab(colors)
    return np.degrees(np.arctan2(lab[:, 2], lab[:, 1]))


def turn(a, b):
    """Degrees between two hues, the short way round."""
    return abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize("name", builtin_names())
def test_no_two_families_share_a_hue(name):
    h = Hierarchy.load(name)
    hue = hues(tree_colors(h))
    for top, other in permutations(h.children(-1), 2):
        pairs = product(h.descendants(top), h.descendants(other))
        assert min(turn(hue[v], hue[u]) for v, u in pairs) > 10
        assert turn(hue[top], hue[other]) > 25


@pytest.mark.parametrize("name", builtin_names())
def test_an_inner_node_has_the_hue_of_its_family(name):
    h = Hierarchy.load(name)
    hue = hues(tree_colors(h))
    for node in range(h.num_leaves, h.num_nodes):
        leaves = [leaf for leaf in h.descendants(node) if leaf < h.num_leaves]
        middle = np.mean([(hue[leaf] - hue[node] + 180) % 360 - 180 for leaf in leaves])
        assert abs(middle) < 3


@pytest.mark.parametrize("name", builtin_names())
def test_siblings_differ_clearly(name):
    h = Hierarchy.load(name)
    lab = oklab(tree_colors(h))
    for parent in range(h.num_leaves, h.num_nodes):
        clear = min(0.04, 0.28 / len(h.children(parent)))  # a full family has less room
        for v, u in permutations(h.children(parent), 2):
            assert np.linalg.norm(lab[v] - lab[u]) > clear, (h.paths[u], h.paths[v])


def test_all_different_in_a_large_tree():
    tree = {f"g{i}": {f"k{j}": [f"l{m}" for m in range(9)] for j in range(6)} for i in range(12)}
    colors = tree_colors(Hierarchy.from_dict(tree))
    assert len(np.unique(colors, axis=0)) == len(colors) == 12 * (1 + 6 * 10)


def test_values_are_fixed():
    colors = tree_colors(Hierarchy.load("cityscapes"))
    assert colors.dtype == np.uint8 and colors.shape == (26, 3)
    assert (
        colors.min(axis=1).max() < 230 and colors.max(axis=1).min() > 90
    )  # no near-black or white
