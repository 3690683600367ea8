"""The tables of a tree, against its methods and plain loops."""

import numpy as np
import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers import TreeIndex

CPU = torch.device("cpu")
TREES = [
    Hierarchy.from_dict({"flat": ["road", "path"], "vehicle": ["car", "bus"]}, name="two levels"),
    Hierarchy.from_paths(["a/b/c", "a/b/d", "a/e", "f", "g/h/i"], name="ragged"),
    Hierarchy.from_paths(["a/b/c", "a/b/d", "a/e", "f", "g/h/i"]).with_leaf_order(list("ficde")),
    Hierarchy.from_dict(["a", "b", "c"], name="one level"),
]


@pytest.fixture(params=TREES, ids=lambda tree: tree.name or "shuffled")
def tree(request):
    return request.param


def pairs(tree, test):
    """Node by label: what a test says of each pair."""
    nodes = range(tree.num_nodes)
    return [[bool(test(v, label)) for label in nodes] for v in nodes]


def test_what_labels_say_of_nodes(tree):
    index = TreeIndex.of(tree, CPU)
    nodes = torch.arange(tree.num_nodes)[:, None]
    labels = torch.arange(tree.num_nodes + 1)
    below, on_path = index.is_below(nodes, labels), index.is_on_path(nodes, labels)

    def expected_below(v, label):
        return v != label and v in tree.descendants(label)

    assert below[:, :-1].tolist() == pairs(tree, expected_below)
    assert on_path[:, :-1].tolist() == pairs(tree, lambda v, label: v in tree.ancestors(label))
    assert below[:, -1].all() and not on_path[:, -1].any()
    assert index.has_unknown.tolist() == below.any(0).tolist()
    sizes = np.bincount(tree.node_level)
    assert index.level_size.tolist() == [sizes[level] for level in tree.node_level]


def test_paths(tree):
    index = TreeIndex.of(tree, CPU)
    for label in range(tree.num_nodes):
        path = list(tree.path(label))
        length = len(path)
        assert index.path[:, label].tolist() == path + [label] * (tree.num_levels - length)
        assert index.off_path[:, label].tolist() == [n >= length for n in range(tree.num_levels)]
    assert index.path[:, -1].eq(0).all() and index.off_path[:, -1].all()


def test_levels(tree):
    index = TreeIndex.of(tree, CPU)
    for depth, level in enumerate(index.levels):
        nodes = tree.level_nodes(depth).tolist()
        assert level.ids.tolist() == nodes
        assert torch.arange(tree.num_nodes)[level.nodes].tolist() == nodes
        places = {v: place for place, v in enumerate(nodes)}
        assert level.position.tolist() == [places.get(v, -1) for v in range(tree.num_nodes)]
        assert level.leaf_position.tolist() == list(tree.leaf_to_level(depth))
        for label in range(tree.num_nodes):
            (*standing,) = (v for v in tree.ancestors(label) if v in places)
            assert level.reached[label] == bool(standing)
            assert level.target[label] == (places[standing[0]] if standing else 0)
        assert not level.reached[-1]
        for v, above, place in zip(nodes, level.above, level.place_above, strict=True):
            if depth == 0:
                assert (above, place) == (-1, 0)
            else:
                assert above in (v, tree.parent[v]) and index.levels[depth - 1].ids[place] == above


@pytest.mark.parametrize("step", [1, 2])
def test_nearest_leaves(tree, step):
    index = TreeIndex.of(tree, CPU)
    leaves = torch.arange(0, tree.num_leaves, step)
    near = index.nearest_leaves(leaves)
    for place, leaf in enumerate(leaves.tolist()):
        found = leaves[near.leaf[place]].numpy()
        distances = tree.distance_matrix[leaf, found].tolist()
        assert found[0] == leaf and distances == sorted(distances)
        assert near.distance[place].tolist() == distances
        assert near.first[place].tolist() == [distances.index(d) for d in distances]
    if step == 1:
        assert torch.equal(near.leaf, index.all_nearest_leaves.leaf)


def test_children_come_first(tree):
    order = TreeIndex.of(tree, CPU).children_first
    nodes = order.nodes.tolist()
    assert sorted(nodes) == list(range(tree.num_nodes))
    for v in range(tree.num_nodes):
        assert all(nodes.index(child) < nodes.index(v) for child in tree.children(v))
        assert order.is_inner[v] == (len(tree.children(v)) > 0)
        assert order.depth[v] == len(tree.path(v)) - 1
        subtree = [nodes.index(u) for u in tree.descendants(v)]
        assert (order.first[v], order.last[v]) == (min(subtree), max(subtree))
        assert order.last[v] == nodes.index(v)


def test_tables_are_made_once_and_shared_by_equal_trees():
    first, second = (Hierarchy.from_paths(["x/y", "x/z", "w"], name="shared") for _ in range(2))
    index = TreeIndex.of(first, CPU)
    assert TreeIndex.of(second, CPU) is index
    assert index.path is index.path and index.levels is index.levels
    assert TreeIndex.of(first, torch.device("meta")).path.device.type == "meta"


def test_tables_made_in_inference_mode_serve_training():
    index = TreeIndex.of(Hierarchy.from_paths(["p/q", "p/r"], name="inference first"), CPU)
    with torch.inference_mode():
        tables = [index.path, index.has_unknown, *index.all_nearest_leaves]
        tables += [index.levels[0].target, index.inner_levels[0].child_parent]
    assert not any(table.is_inference() for table in tables)
