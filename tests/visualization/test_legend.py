"""The legend: every node once, in its colour, and the present ones in full."""

import numpy as np
import pytest

from hiera_seg import Hierarchy
from hiera_seg.hierarchy import tree_colors
from hiera_seg.visualization import legend
from hiera_seg.visualization.legend import _columns, columns_that_fit

STREET = Hierarchy.from_dict(
    {"flat": ["road", "path"], "vehicle": {"van": None, "car": ["bus", "taxi"]}, "sky": None}
)
WIDE = Hierarchy.from_dict({f"g{i}": {f"k{i}": [f"a{i}", f"b{i}", f"c{i}"]} for i in range(6)})


def has_swatch(picture, color):
    """Whether the picture holds an area of the colour (text and lines are no wider than 3)."""
    hit = (picture == color).all(axis=2)
    return any(hit[r : r + 6, c : c + 6].all() for r, c in zip(*np.nonzero(hit), strict=True))


def test_every_node_has_a_swatch_of_its_colour():
    picture = legend(STREET)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert all(has_swatch(picture, color) for color in tree_colors(STREET))


def test_present_nodes_and_those_above_them_stand_out():
    picture = legend(STREET, present=[STREET["bus"]])
    shown = {v for v, color in enumerate(tree_colors(STREET)) if has_swatch(picture, color)}
    assert shown == {STREET["bus"], STREET["car"], STREET["vehicle"]}
    assert picture.shape == legend(STREET).shape


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 100])
def test_columns_hold_every_node_and_repeat_only_nodes_above(columns):
    blocks = _columns(WIDE, columns)
    assert len(blocks) <= columns
    seen = set()
    for block in blocks:
        assert block[-1] < WIDE.num_leaves  # no inner node apart from its children
        for node in block:
            parent = int(WIDE.parent[node])
            assert parent < 0 or parent in block  # its line leads somewhere
        new = [node for node in block if node not in seen]
        repeated = [node for node in block if node in seen]
        assert repeated == block[: len(repeated)]
        assert all(node in WIDE.path(new[0]) for node in repeated)
        seen.update(block)
    assert seen == set(range(WIDE.num_nodes))


def test_more_columns_make_it_lower():
    heights = [legend(WIDE, columns=columns).shape[0] for columns in (1, 2, 3)]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3


def test_columns_follow_the_room():
    assert columns_that_fit(WIDE, height=10_000, width=10_000) == 1
    columns = columns_that_fit(WIDE, height=400, width=10_000)
    assert legend(WIDE, columns=columns).shape[0] <= 400
    assert legend(WIDE, columns=columns - 1).shape[0] > 400
    columns = columns_that_fit(WIDE, height=0, width=500)
    assert legend(WIDE, columns=columns).shape[1] <= 500
    assert legend(WIDE, columns=columns + 1).shape[1] > 500


def test_a_deep_tree_has_no_room_to_gain():
    tree = None
    for level in range(30):
        tree = {f"n{level}": tree}
    chain = Hierarchy.from_dict(tree)
    assert columns_that_fit(chain, height=100, width=10_000) == 1
    assert legend(chain, columns=5).shape == legend(chain).shape
