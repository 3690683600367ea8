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


def rows(tree, test, void=False):
    """Node by label: what a test says of each pair; column N for void."""
    nodes = range(tree.num_nodes)
    return [[bool(test(v, label)) for label in nodes] + [void] for v in nodes]


def test_what_labels_say_of_nodes(tree):
    index = TreeIndex.of(tree, CPU)

    def negative(v, label):
        return v not in tree.ancestors(label) and v not in tree.descendants(label)

    assert index.positive.tolist() == rows(tree, lambda v, label: v in tree.ancestors(label))
    assert index.negative.tolist() == rows(tree, negative)
    sizes = np.bincount(tree.node_level)
    assert index.level_size.tolist() == [sizes[level] for level in tree.node_level]


def test_paths(tree):
    index = TreeIndex.of(tree, CPU)
    for label in range(tree.num_nodes):
        path = list(tree.path(label))
        length = len(path)
        assert index.path[:, label].tolist() == path + [label] * (tree.num_levels - length)
        assert index.on_path[:, label].sum() == index.on_path[:length, label].sum() == length
    assert index.path[:, -1].eq(0).all() and not index.on_path[:, -1].any()


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
            assert index.standing[depth, label] == (standing[0] if standing else tree.num_nodes)
        assert not level.reached[-1] and index.standing[depth, -1] == tree.num_nodes
        for v, above in zip(nodes, level.above.tolist(), strict=True):
            assert (above == -1) if depth == 0 else above in (v, tree.parent[v])
    reached = torch.stack([level.reached for level in index.levels])
    assert torch.equal(index.levels_reached, reached.sum(0))


def test_leaves(tree):
    index = TreeIndex.of(tree, CPU)
    leaves, nodes = tree.num_leaves, tree.num_nodes
    for v in range(nodes):
        below = [leaf in tree.descendants(v) for leaf in range(leaves)]
        expected = torch.where(torch.tensor(below), 0.0, -torch.inf)
        assert torch.equal(index.outside[:, v], expected)
        assert torch.equal(index.outside_or_none[v], torch.tensor([*expected, -torch.inf]))
    assert index.outside[:, nodes].eq(0).all()
    assert index.outside_or_none[nodes].tolist() == [-torch.inf] * leaves + [0.0]
    near = index.nearest_leaves
    for leaf in range(leaves):
        distances = tree.distance_matrix[leaf, near.leaf[leaf].numpy()].tolist()
        assert near.leaf[leaf, 0] == leaf and distances == sorted(distances)
        assert near.distance[leaf].tolist() == distances
        assert near.first[leaf].tolist() == [distances.index(d) for d in distances]


def test_children_come_first(tree):
    order = TreeIndex.of(tree, CPU).children_first
    nodes = order.nodes.tolist()
    assert sorted(nodes) == list(range(tree.num_nodes))
    for v in range(tree.num_nodes):
        assert all(nodes.index(child) < nodes.index(v) for child in tree.children(v))
        assert order.is_inner[v] == (len(tree.children(v)) > 0)
        assert order.depth[v] == len(tree.path(v)) - 1


def test_tables_are_made_once_and_shared_by_equal_trees():
    first, second = (Hierarchy.from_paths(["x/y", "x/z", "w"], name="shared") for _ in range(2))
    index = TreeIndex.of(first, CPU)
    assert TreeIndex.of(second, CPU) is index
    assert index.negative is index.negative and index.levels is index.levels
    assert TreeIndex.of(first, torch.device("meta")).negative.device.type == "meta"


def test_tables_made_in_inference_mode_serve_training():
    index = TreeIndex.of(Hierarchy.from_paths(["p/q", "p/r"], name="inference first"), CPU)
    with torch.inference_mode():
        tables = [index.outside, index.outside_or_none, index.levels_reached, *index.nearest_leaves]
        tables += [index.levels[0].target, index.inner_levels[0].child_parent, index.standing]
    assert not any(table.is_inference() for table in tables)
