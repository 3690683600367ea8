"""Logit adjustment within families, against a recursion over one pixel's probabilities."""

import numpy as np
import pytest
import torch

from hiera_seg import Hierarchy
from hiera_seg.layers import SiblingAdjustment, sibling_shares

RAGGED = {"sky": None, "thing": {"person": ["head", "arm", "leg"], "lamp": None}, "road": ["lane"]}


@pytest.fixture
def tree():
    return Hierarchy.from_dict(RAGGED)


@pytest.fixture
def pixels(tree):
    counts = {"sky": 1000, "head": 10, "arm": 89, "leg": 0, "lamp": 400, "person": 100, "lane": 7}
    result = np.zeros(tree.num_nodes)
    for name, count in counts.items():
        result[tree[name]] = count
    return result


def adjusted(p, tree, nodes, shares, tau):
    """q of nodes of which one pixel has one, from their p, down the tree from its top."""
    mass = np.zeros(tree.num_nodes)
    for node, probability in zip(nodes, p, strict=True):
        mass[tree.ancestor_matrix[node].astype(bool)] += probability
    q = np.zeros(tree.num_nodes)

    def go_down(family, total):
        weights = mass[family] / mass[family].sum() * shares[family] ** -tau
        for node, weight in zip(family, weights / weights.sum(), strict=True):
            q[node] = total * weight
            reach(node)

    def reach(node):
        children = np.flatnonzero((tree.parent == node) & (mass > 0))
        if len(children):
            go_down(children, q[node])

    for top in np.flatnonzero(tree.parent < 0):
        q[top] = mass[top]
        reach(top)
    return q[nodes]


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_probabilities_are_those_of_a_walk_down_the_tree(tree, pixels, tau):
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, tree.num_nodes, 3, 4, dtype=torch.float64)
    adjust = SiblingAdjustment(tree, pixels, tau).double()
    found = adjust(logits)
    leaves = np.arange(tree.num_leaves)
    q, p = (x[:, : tree.num_leaves].softmax(1) for x in (found, logits))
    shares = sibling_shares(pixels, tree)
    for b, i, j in np.ndindex(2, 3, 4):
        expected = adjusted(p[b, :, i, j].numpy(), tree, leaves, shares, tau)
        np.testing.assert_allclose(q[b, :, i, j], expected, rtol=2e-6)
    torch.testing.assert_close(found[:, tree.num_leaves :], logits[:, tree.num_leaves :])


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_each_level_is_a_tree_that_ends_there(tau):
    tree = Hierarchy.from_dict(
        {"living": {"person": ["child", "adult"], "animal": ["dog", "cat", "cow"]},
         "ground": {"paved": ["road", "path"]}, "sky": None}
    )  # fmt: skip
    pixels = 3.0 ** np.arange(tree.num_nodes)
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, tree.num_nodes, 2, 3, dtype=torch.float64)
    found = SiblingAdjustment(tree, pixels, tau, by_level=True).double()(logits)
    shares = sibling_shares(pixels, tree)
    for level in range(tree.num_levels):
        nodes = tree.level_nodes(level).copy()
        q, p = (x[:, nodes].softmax(1) for x in (found, logits))
        for b, i, j in np.ndindex(2, 2, 3):
            expected = adjusted(p[b, :, i, j].numpy(), tree, nodes, shares, tau)
            np.testing.assert_allclose(q[b, :, i, j], expected, rtol=2e-6)
    top = np.flatnonzero(tree.depth == 0)
    assert torch.equal(found[:, top], logits[:, top])


def test_a_leaf_above_the_last_level_is_shifted_as_at_its_own(tree, pixels):
    """It has one logit for the softmax of several levels."""
    torch.manual_seed(0)
    logits = torch.randn(1, tree.num_nodes, 1, 1, dtype=torch.float64)
    found = SiblingAdjustment(tree, pixels, 0.5, by_level=True).double()(logits)[0, :, 0, 0]
    nodes = tree.level_nodes(1).copy()
    p = logits[0, nodes, 0, 0].softmax(0)
    q = adjusted(p.numpy(), tree, nodes, sibling_shares(pixels, tree), 0.5)
    shift = dict(zip(nodes.tolist(), np.log(q) - np.log(p.numpy()), strict=True))
    for name in ("sky", "person", "lamp", "lane"):
        node = tree[name]
        assert (found - logits[0, :, 0, 0])[node].item() == pytest.approx(shift[node], abs=1e-6)
    assert abs(shift[tree["lamp"]]) > 0.1


@pytest.mark.parametrize("by_level", [False, True])
def test_a_flat_tree_has_nothing_to_adjust(by_level):
    tree = Hierarchy.from_dict({"road": None, "sky": None, "car": None})
    logits = torch.randn(1, 3, 2, 2)
    found = SiblingAdjustment(tree, np.array([1, 10, 100]), 1.0, by_level=by_level)(logits)
    assert torch.equal(found, logits)


def test_shares_within_families(tree, pixels):
    found = sibling_shares(pixels, tree)
    # Person and all below it have 199, lamp has 400; leg has none and keeps its probability
    expected = {"sky": 1, "thing": 1, "road": 1, "lane": 1, "person": 199 / 599, "lamp": 400 / 599}
    expected |= {"head": 10 / 99, "arm": 89 / 99, "leg": 1}
    assert {tree[name]: share for name, share in expected.items()} == pytest.approx(
        dict(enumerate(found))
    )


@pytest.mark.parametrize("by_level", [False, True])
def test_improbable_families_stay_finite(tree, pixels, by_level):
    logits = torch.zeros(1, tree.num_nodes, 1, 2)
    logits[0, tree["sky"]] = 500.0
    found = SiblingAdjustment(tree, pixels, 1.0, by_level=by_level)(logits)
    assert found.isfinite().all()
    assert (found[0, : tree.num_leaves].argmax(0) == tree["sky"]).all()


def test_half_precision_is_computed_in_float32(tree, pixels):
    logits = torch.randn(1, tree.num_nodes, 2, 2)
    adjust = SiblingAdjustment(tree, pixels, 0.5)
    found = adjust(logits.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, adjust(logits.bfloat16().float()))


@pytest.mark.parametrize("by_level", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(tree, pixels, dtype, by_level):
    """1e-30, the least probability, is 0 in float16."""
    logits = torch.randn(1, tree.num_nodes, 2, 2)
    logits[0, tree["sky"], 0] = 500.0
    adjust = SiblingAdjustment(tree, pixels, 0.5, by_level=by_level)
    expected = adjust(logits)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(adjust(logits), expected, rtol=0, atol=0)


@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_powers_that_can_not_be(tree, pixels, tau):
    with pytest.raises(ValueError, match="tau is .*0 or more"):
        SiblingAdjustment(tree, pixels, tau)
