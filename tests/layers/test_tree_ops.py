"""Operations that know a tree, against loops over `ancestors` and `descendants`."""

import math

import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers import (
    ancestor_min,
    descendant_max,
    path_sum,
    sum_over_leaves,
)

TREES = {
    "two levels": {"flat": ["road", "path"], "vehicle": ["car", "bus", "tram"]},
    "ragged": {"a": {"b": {"c": None, "d": None}, "e": None}, "f": None, "g": {"h": {"i": None}}},
    "one level": ["a", "b", "c"],
    "chain": {"a": {"b": {"c": {"d": None}}}},
    "one node": ["a"],
    "wide": {"a": [f"c{i}" for i in range(9)], "b": None, "d": ["e"]},
}


@pytest.fixture(params=TREES, ids=lambda name: name.replace(" ", "_"))
def tree(request):
    hierarchy = Hierarchy.from_dict(TREES[request.param], name=request.param)
    return hierarchy.with_leaf_order(hierarchy.leaf_names[::-1])


def _values(hierarchy, size, leaves=False, seed=0):
    count = hierarchy.num_leaves if leaves else hierarchy.num_nodes
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, size, generator=generator, dtype=torch.float64)


def _by_node(x, hierarchy, related, reduce):
    rows = [reduce([x[:, u] for u in related(v)]) for v in range(hierarchy.num_nodes)]
    return torch.stack(rows, 1)


def _stacked(reduce):
    return lambda rows: reduce(torch.stack(rows), 0)


def test_descendant_max_is_the_maximum_over_descendants(tree):
    x = _values(tree, 7)
    expected = _by_node(x, tree, tree.descendants, _stacked(torch.amax))
    assert torch.equal(descendant_max(x, tree), expected)


def test_ancestor_min_is_the_minimum_over_ancestors(tree):
    x = _values(tree, 7)
    expected = _by_node(x, tree, tree.ancestors, _stacked(torch.amin))
    assert torch.equal(ancestor_min(x, tree), expected)


def test_sum_over_leaves_sums_the_leaves_below(tree):
    x = _values(tree, 7, leaves=True)

    def leaves_of(v):
        return [u for u in tree.descendants(v) if u < tree.num_leaves]

    expected = _by_node(x, tree, leaves_of, _stacked(torch.sum))
    torch.testing.assert_close(sum_over_leaves(x, tree), expected)


def _nodes_of_leaf(hierarchy, leaf):
    """Its node at each level: from the top down, the leaf again where it is above the level."""
    path = list(hierarchy.path(leaf))
    return path + [leaf] * (hierarchy.num_levels - len(path))


def test_path_sum_repeats_shallow_leaves(tree):
    x = _values(tree, 7)
    expected = [sum(x[:, v] for v in _nodes_of_leaf(tree, leaf)) for leaf in range(tree.num_leaves)]
    torch.testing.assert_close(path_sum(x, tree), torch.stack(expected, 1))


OPERATIONS = [descendant_max, ancestor_min, sum_over_leaves, path_sum]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
def test_gradients_any_dimension_and_inputs_untouched(tree, operation):
    x = _values(tree, 3, leaves=operation is sum_over_leaves).requires_grad_()
    before = x.detach().clone()
    result = operation(x, tree)
    assert torch.equal(x.detach(), before)
    assert result.data_ptr() != x.data_ptr()
    torch.testing.assert_close(operation(x.transpose(1, 2), tree, dim=-1).transpose(1, 2), result)
    torch.testing.assert_close(operation(x[0], tree, dim=0), result[0])
    torch.autograd.gradcheck(lambda values: operation(values, tree), x)


@pytest.mark.parametrize("operation", [descendant_max, ancestor_min], ids=lambda f: f.__name__)
def test_gradients_of_ties_sum_to_the_whole(tree, operation):
    x = torch.zeros(1, tree.num_nodes, 1, dtype=torch.float64, requires_grad=True)
    operation(x, tree).sum().backward()
    assert x.grad.sum().item() == pytest.approx(tree.num_nodes)
    assert (x.grad >= 0).all()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
def test_wrong_number_of_channels_names_the_tree(tree, operation):
    with pytest.raises(ValueError, match=f"tree '{tree.name}'"):
        operation(torch.zeros(1, tree.num_nodes + 7, 2), tree)


def test_infinite_logits_stay_at_their_nodes():
    tree = Hierarchy.from_dict(TREES["ragged"])
    x = torch.full((1, tree.num_nodes, 1), -math.inf)
    x[0, tree["c"]] = math.inf
    highest = descendant_max(x, tree)[0, :, 0]
    assert {tree.node_names[v] for v in torch.nonzero(highest > 0).flatten()} == {"a", "b", "c"}
