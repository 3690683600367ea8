"""Logit adjustment within families, against a recursion over one pixel's probabilities."""

import numpy as np
import pytest
import torch

from hiera_seg import Hierarchy
from hiera_seg.layers import SiblingAdjustment, sibling_shares, sum_over_leaves

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


def adjusted(p, tree, shares, tau):
    """q of the leaves of one pixel, down the tree from its top."""
    below = tree.ancestor_matrix.astype(bool)
    mass = np.array([p[below[: tree.num_leaves, v]].sum() for v in range(tree.num_nodes)])
    q = np.zeros(tree.num_nodes)

    def go_down(family, total):
        weights = mass[family] / mass[family].sum() * shares[family] ** -tau
        for node, weight in zip(family, weights / weights.sum(), strict=True):
            q[node] = total * weight
            children = np.flatnonzero(tree.parent == node)
            if len(children):
                go_down(children, q[node])

    for top in np.flatnonzero(tree.parent < 0):
        q[top] = mass[top]
        children = np.flatnonzero(tree.parent == top)
        if len(children):
            go_down(children, q[top])
    return q[: tree.num_leaves]


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_probabilities_are_those_of_a_walk_down_the_tree(tree, pixels, tau):
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, tree.num_nodes, 3, 4, dtype=torch.float64)
    adjust = SiblingAdjustment(tree, pixels, tau).double()
    found = adjust(logits)
    q = found[:, : tree.num_leaves].exp()
    p = logits[:, : tree.num_leaves].softmax(1)
    shares = sibling_shares(pixels, tree)
    for b, i, j in np.ndindex(2, 3, 4):
        expected = adjusted(p[b, :, i, j].numpy(), tree, shares, tau)
        np.testing.assert_allclose(q[b, :, i, j], expected, rtol=2e-6)
    torch.testing.assert_close(found[:, tree.num_leaves :], logits[:, tree.num_leaves :])


def test_the_top_level_keeps_what_the_network_says(tree, pixels):
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, tree.num_nodes, 5, 5)
    q = SiblingAdjustment(tree, pixels, 0.7)(logits)[:, : tree.num_leaves].exp()
    p = logits[:, : tree.num_leaves].softmax(1)
    top = np.flatnonzero(tree.parent < 0)
    before, after = (sum_over_leaves(x, tree)[:, top] for x in (p, q))
    torch.testing.assert_close(after, before)
    assert not torch.allclose(q, p, atol=0.05)


def test_shares_within_families(tree, pixels):
    found = sibling_shares(pixels, tree)
    # A pixel more each: person and all below it 200, lamp 401, leg 1 of the parts' 102
    expected = {"sky": 1, "thing": 1, "road": 1, "lane": 1, "person": 200 / 601, "lamp": 401 / 601}
    expected |= {"head": 11 / 102, "arm": 90 / 102, "leg": 1 / 102}
    assert {tree[name]: share for name, share in expected.items()} == pytest.approx(
        dict(enumerate(found))
    )


def test_power_one_undoes_the_frequencies(tree, pixels):
    """A network that says the training set's frequencies finds all siblings equal."""
    shares = sibling_shares(pixels, tree)
    path = tree.ancestor_matrix[: tree.num_leaves].astype(bool)
    p = np.array([shares[nodes].prod() for nodes in path])
    logits = torch.zeros(1, tree.num_nodes, 1, 1)
    logits[0, : tree.num_leaves, 0, 0] = torch.from_numpy(p).log()
    q = SiblingAdjustment(tree, pixels, 1.0)(logits)[0, : tree.num_leaves, 0, 0].exp()
    parts = q[[tree[name] for name in ("head", "arm", "leg")]]
    torch.testing.assert_close(parts, parts[:1].expand(3))
    torch.testing.assert_close(parts.sum(), q[tree["lamp"]])


def test_improbable_families_stay_finite(tree, pixels):
    logits = torch.zeros(1, tree.num_nodes, 1, 2)
    logits[0, tree["sky"]] = 500.0
    found = SiblingAdjustment(tree, pixels, 1.0)(logits)
    assert found.isfinite().all()
    assert (found[0, : tree.num_leaves].argmax(0) == tree["sky"]).all()


def test_half_precision_is_computed_in_float32(tree, pixels):
    logits = torch.randn(1, tree.num_nodes, 2, 2)
    adjust = SiblingAdjustment(tree, pixels, 0.5)
    found = adjust(logits.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, adjust(logits.bfloat16().float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(tree, pixels, dtype):
    """1e-30, the least probability, is 0 in float16."""
    logits = torch.randn(1, tree.num_nodes, 2, 2)
    logits[0, tree["sky"], 0] = 500.0
    adjust = SiblingAdjustment(tree, pixels, 0.5)
    expected = adjust(logits)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(adjust(logits), expected, rtol=0, atol=0)


@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_powers_that_can_not_be(tree, pixels, tau):
    with pytest.raises(ValueError, match="tau is .*0 or more"):
        SiblingAdjustment(tree, pixels, tau)
