import copy
import pickle

import numpy as np
import pytest

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import PathCounts, collapse_nodes, confusion, count_image

TREE = Hierarchy.from_dict(
    {"sky": None, "flat": ["road", "path"], "vehicle": ["car", "bus"]}, name="small"
)
SKY, ROAD, PATH, CAR, BUS, FLAT, VEHICLE = range(7)


def test_numbering_of_the_tree_of_these_tests():
    assert TREE.paths[FLAT] == "flat" and TREE.paths[BUS] == "vehicle/bus"


def test_node_matrix_has_predictions_in_rows_and_truth_in_columns():
    nodes, direct, consistent = count_image(
        np.array([[CAR, ROAD, FLAT]]), np.array([[BUS, 255, VEHICLE]]), TREE
    )
    expected = np.zeros((7, 7))
    expected[CAR, BUS] = expected[FLAT, VEHICLE] = 1
    np.testing.assert_array_equal(nodes.matrix, [*expected, [0] * 7])
    assert nodes.counts.dtype == np.int64
    assert (direct, consistent) == ([], 0)


def test_collapsing_to_a_level_keeps_shallow_leaves_and_drops_coarse_truth():
    truth = np.array([[SKY, ROAD, CAR, VEHICLE]])
    nodes, *_ = count_image(np.array([[SKY, FLAT, BUS, SKY]]), truth, TREE)
    # classes sky, flat, vehicle; no prediction is too coarse for the top level
    np.testing.assert_array_equal(
        collapse_nodes(nodes, TREE, 0), [[1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    )
    finest = collapse_nodes(nodes, TREE, -1)  # classes sky, road, path, car, bus
    assert finest[SKY, SKY] == finest[BUS, CAR] == finest[5, ROAD] == 1
    assert finest.sum() == 3
    np.testing.assert_array_equal(collapse_nodes(nodes, TREE, "level_1"), finest)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_any_integer_dtype_and_any_memory_layout(dtype):
    rng = np.random.default_rng(0)
    truth = np.where(rng.random((6, 8)) < 0.2, 255, rng.integers(0, 7, (6, 8)))
    labels, leaf = rng.integers(0, 7, (6, 8)), rng.integers(0, 5, (6, 8))
    direct = [TREE.level_nodes(0)[TREE.leaf_to_level(0)[leaf]], leaf]
    expected = count_image(labels, truth, TREE, direct=direct)
    found = count_image(
        labels.astype(dtype)[::-1].T,
        truth.astype(dtype)[::-1].T,
        TREE,
        direct=[values.astype(dtype)[::-1].T for values in direct],
    )
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        np.testing.assert_array_equal(a.matrix, b.matrix)
    assert found[2] == expected[2]


@pytest.mark.parametrize("void", [7, 65535, -1, 100_000])
def test_void_may_be_any_value_outside_the_tree(void):
    truth = np.array([[CAR, void, VEHICLE]])
    nodes, *_ = count_image(np.array([[CAR, CAR, CAR]]), truth, TREE, ignore_label=void)
    assert nodes.rows.tolist() == [CAR, CAR] and nodes.columns.tolist() == [CAR, VEHICLE]
    assert nodes.counts.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_void_below_0_is_not_consistent_in_a_large_tree(dtype):
    tree = Hierarchy.load("mapillary_vistas_v2")  # too large for a table of all combinations
    leaf = np.arange(99).reshape(9, 11)
    truth = np.where(leaf < 4, -1, leaf).astype(dtype)
    direct = [tree.level_nodes(i)[tree.leaf_to_level(i)[leaf]] for i in range(tree.num_levels)]
    assert count_image(leaf, truth, tree, ignore_label=-1, direct=direct)[2] == 95


def test_inputs_are_not_changed():
    arrays = [np.array([[CAR, 1]]), np.array([[CAR, 255]]), np.array([[VEHICLE, FLAT]])]
    before = [a.copy() for a in arrays]
    count_image(arrays[0], arrays[1], TREE, direct=[arrays[2], arrays[0]])
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [7, -1, -7, 254, 300, np.iinfo(np.int64).min, 2**40])
def test_an_id_outside_the_tree_is_named_and_never_counted_as_another(bad):
    good, wrong = np.full((1, 3), CAR), np.array([[CAR, bad, CAR]])
    with pytest.raises(ValueError, match=rf"prediction holds {bad};.* node ids 0 to 6"):
        count_image(wrong, good, TREE)
    with pytest.raises(ValueError, match=rf"truth holds {bad};.* node ids 0 to 6, and 255"):
        count_image(good, wrong, TREE)
    with pytest.raises(ValueError, match=rf"level 'level_1' holds {bad};.* 0 to 4"):
        count_image(good, good, TREE, direct=[np.full((1, 3), VEHICLE), wrong])


@pytest.mark.parametrize("bad", [CAR, 255, -3, 7])
def test_a_direct_label_of_another_level_is_named(bad):
    leaf = np.full((1, 3), CAR)
    with pytest.raises(ValueError, match=rf"level 'level_0' holds {bad}; allowed are 3 of the"):
        count_image(leaf, leaf, TREE, direct=[np.array([[VEHICLE, bad, SKY]]), leaf])


@pytest.mark.parametrize("bad", [0, 3, -1, 6])
def test_the_same_where_the_ids_of_a_level_are_contiguous(bad):
    tree = Hierarchy.from_dict({"flat": ["road", "path"], "vehicle": ["car", "bus"]})
    leaf = np.array([[0, 2]])
    with pytest.raises(ValueError, match=rf"level_0' holds {bad}; allowed are the node ids 4 to 5"):
        count_image(leaf, leaf, tree, direct=[np.array([[4, bad]]), leaf])


def test_sizes_kinds_and_numbers_of_maps_are_checked():
    good = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match="prediction .* 3 x 2.* ground truth 2 x 3"):
        count_image(good.T, good, TREE)
    with pytest.raises(ValueError, match="level 'level_0' .* 1 x 3"):
        count_image(good, good, TREE, direct=[good[:1], good])
    with pytest.raises(ValueError, match="prediction .* float64"):
        count_image(good.astype(float), good, TREE)
    with pytest.raises(ValueError, match="1 maps of direct labels for the 2 levels"):
        count_image(good, good, TREE, direct=[good])
    with pytest.raises(ValueError, match="0 maps of direct labels for the 2 levels"):
        count_image(good, good, TREE, direct=[])
    with pytest.raises(
        ValueError, match=r"ignore_label 6 is a node id .*'small'.* outside 0 \.\. 6"
    ):
        PathCounts(TREE, 6)


def test_an_empty_image_counts_nothing():
    empty = np.zeros((0, 4), int)
    counts = PathCounts(TREE)
    counts.add(empty, empty, [empty, empty])
    assert len(counts.nodes.counts) == 0 and counts.num_images == 1


def test_merged_counts_are_those_of_all_images():
    rng = np.random.default_rng(0)
    both, parts = PathCounts(TREE), [PathCounts(TREE), PathCounts(TREE)]
    for part in parts:
        truth, labels = rng.integers(0, 5, (2, 5, 6))
        direct = [TREE.level_nodes(0)[TREE.leaf_to_level(0)[labels]], truth]
        part.add(labels, truth, direct)
        both.add(labels, truth, direct)
    summed = PathCounts(TREE)
    for part in parts:
        summed.merge(part)
    np.testing.assert_array_equal(summed.nodes.matrix, both.nodes.matrix)
    np.testing.assert_array_equal(summed.direct[0].matrix, both.direct[0].matrix)
    assert summed.consistent == both.consistent > 0
    assert (summed.num_images, summed.num_direct_images) == (2, 2)


def test_counting_goes_on_after_a_copy():
    leaf = np.array([[CAR, ROAD]])
    counts = PathCounts(TREE)
    counts.add(leaf, leaf)
    for copied in (copy.deepcopy(counts), pickle.loads(pickle.dumps(counts))):
        copied.add(leaf, leaf)
        assert (copied.num_images, counts.num_images) == (2, 1)
        assert (copied.nodes.matrix == 2 * counts.nodes.matrix).all()


@pytest.mark.parametrize("pending", [0, 10**6])
def test_counts_do_not_depend_on_when_they_are_summed(pending, monkeypatch):
    monkeypatch.setattr(confusion, "_MAX_PENDING", pending)
    rng = np.random.default_rng(0)
    counts, expected = PathCounts(TREE), np.zeros((8, 7), int)
    for _ in range(4):
        truth, labels = rng.integers(0, 7, (2, 5, 6))
        unpredicted = rng.random((5, 6)) < 0.3
        labels[0, 0], unpredicted[0, 0] = (
            255,
            True,
        )  # any value may stand where nothing is predicted
        image = counts.add(labels, truth, unpredicted=unpredicted)
        np.add.at(expected, (np.where(unpredicted, 7, labels), truth), 1)
        assert image.counts.sum() == 30
    np.testing.assert_array_equal(counts.nodes.matrix, expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_too_large_for_a_table_is_counted_by_runs(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    labels, truth = rng.integers(0, 7, (2, 30, 20)).repeat(3, axis=2)
    truth = np.where(rng.random(truth.shape) < 0.1, 255, truth)
    leaf = rng.integers(0, 5, truth.shape)
    direct = [TREE.level_nodes(0)[TREE.leaf_to_level(0)[leaf]], leaf]
    monkeypatch.setattr(confusion, "_MAX_JOINT_CELLS", 0)
    dense = count_image(labels, truth, TREE, direct=direct)
    monkeypatch.setattr(confusion, "_MAX_DENSE_CELLS", 0)
    monkeypatch.setattr(confusion, "_PIXELS_AT_A_TIME", 1000)
    sparse = count_image(labels, truth, TREE, direct=direct)
    for a, b in zip([dense[0], *dense[1]], [sparse[0], *sparse[1]], strict=True):
        assert (a.shape, a.counts.tolist()) == (b.shape, b.counts.tolist())
        np.testing.assert_array_equal(a.matrix, b.matrix)
    assert dense[2] == sparse[2]
    for bad in (7, -1, 254, 300, 2**40):
        wrong = np.where(labels == 3, bad, labels)
        with pytest.raises(ValueError, match=f"prediction holds {bad}"):
            count_image(wrong, truth, TREE)
        with pytest.raises(ValueError, match=f"truth holds {bad}"):
            count_image(labels, wrong, TREE)
