"""Overlays: which pixels get which colour."""

import numpy as np
import pytest

from hiera_seg import Hierarchy
from hiera_seg.hierarchy import tree_colors
from hiera_seg.visualization import cut_at_level, overlay_labels, overlay_mistakes

STREET = Hierarchy.from_dict(
    {"flat": ["road", "path"], "vehicle": {"van": None, "car": ["bus", "taxi"]}, "sky": None},
    name="street",
)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("void", [255, 65535, -1, STREET.num_nodes])
def test_void_is_transparent_and_nodes_are_blended(image, void):
    labels = np.full((24, 32), STREET["bus"], np.int64)
    labels[:, 16:] = void
    before = image.copy()
    drawn = overlay_labels(image, labels, STREET, alpha=0.5, boundaries=False)
    np.testing.assert_array_equal(drawn[:, 16:], image[:, 16:])
    expected = 0.5 * image[:, :16] + 0.5 * tree_colors(STREET)[STREET["bus"]]
    assert np.abs(drawn[:, :16] - expected).max() <= 0.5
    np.testing.assert_array_equal(image, before)


def test_own_colors_are_used(image):
    colors = np.zeros((STREET.num_nodes, 3), np.uint8)
    colors[STREET["car"]] = 10, 20, 30
    labels = np.full((24, 32), STREET["car"], np.uint8)
    drawn = overlay_labels(image, labels, STREET, colors, alpha=1)
    assert (drawn == (10, 20, 30)).all()


def test_boundaries_darken_only_where_labels_meet(image):
    labels = np.full((24, 32), STREET["road"], np.int32)
    labels[:, 16:] = STREET["path"]
    plain = overlay_labels(image, labels, STREET, boundaries=False)
    drawn = overlay_labels(image, labels, STREET)
    changed = (plain != drawn).any(axis=2)
    assert changed[:, 15].all() and not np.delete(changed, 15, axis=1).any()


def test_names_are_written_only_into_regions_with_room():
    image = np.full((200, 300, 3), 128, np.uint8)
    labels = np.full((200, 300), STREET["road"])
    labels[:6, :6] = STREET["bus"]
    plain = overlay_labels(image, labels, STREET, boundaries=False)
    drawn = overlay_labels(image, labels, STREET, boundaries=False, names=True)
    changed = (plain != drawn).any(axis=2)
    assert changed.any() and not changed[:6, :6].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_labels_of_any_type_are_drawn_as_int64(dtype):
    image = np.full((60, 120, 3), 90, np.uint8)
    labels = np.where(np.arange(120) < 40, 255, STREET["road"]) * np.ones((60, 1), int)
    found = overlay_labels(image, labels.astype(dtype), STREET, names=True)
    np.testing.assert_array_equal(found, overlay_labels(image, labels, STREET, names=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2)])
def test_the_smallest_images_can_be_drawn(size):
    image = np.zeros((*size, 3), np.uint8)
    drawn = overlay_labels(image, np.zeros(size, np.int64), STREET, names=True)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8


def test_mistakes_are_coloured_by_what_they_share_with_the_truth(image):
    node = STREET.id
    # right, sibling, stranger, void, and right as far as a coarse truth goes
    labels = np.array([[node("bus"), node("bus"), node("bus"), node("bus"), node("bus")]])
    truth = np.array([[node("bus"), node("taxi"), node("road"), 255, node("vehicle")]])
    drawn = overlay_mistakes(image[:1, :5], labels, truth, STREET)[0].astype(int)
    colourful = drawn.max(axis=1) - drawn.min(axis=1) > 50
    assert colourful.tolist() == [False, True, True, False, False]
    yellow, red = [255, 225, 60], [215, 20, 40]
    assert drawn[1:3].tolist() == [yellow, red]
    # a cousin, the parent itself, a leaf that is no deeper than a group, and the other way around
    labels = np.array([[node("van"), node("car"), node("sky"), node("bus"), node("vehicle")]])
    truth = np.array([[node("bus"), node("bus"), node("van"), node("sky"), node("bus")]])
    drawn = overlay_mistakes(image[:1, :5], labels, truth, STREET)[0].tolist()
    half = [235, 122, 50]
    assert drawn == [half, yellow, red, red, half]
    # of a tree of thousands of nodes they would take gigabytes
    assert not {"ancestor_matrix", "distance_matrix"} & set(vars(STREET))


def test_cutting_at_a_level():
    node = STREET.id
    labels = np.array([[node("bus"), node("van"), node("car"), node("vehicle"), 255]])

    def names(level):
        cut = cut_at_level(labels, STREET, level, void=-1)
        return ["void" if v < 0 else STREET.node_names[v] for v in cut[0]]

    assert names(0) == ["vehicle", "vehicle", "vehicle", "vehicle", "void"]
    assert names(1) == ["car", "van", "car", "vehicle", "void"]
    assert names(2) == ["bus", "van", "car", "vehicle", "void"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((4, 4, 3))}, r"float64 \(4, 4, 3\).*uint8"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"\(H, W, 3\)"),
        ({"labels": np.zeros((4, 5), int)}, r"\(4, 5\).*\(4, 4\)"),
        ({"labels": np.zeros((4, 4))}, "float64.*integers"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"colors": np.zeros((3, 3))}, r"\(3, 3\).*'street' needs"),
    ],
)
def test_bad_arguments_name_the_value(change, message):
    kwargs = {"image": np.zeros((4, 4, 3), np.uint8), "labels": np.zeros((4, 4), int), **change}
    with pytest.raises(ValueError, match=message):
        overlay_labels(hierarchy=STREET, **kwargs)
