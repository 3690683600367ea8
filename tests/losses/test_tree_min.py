"""tree_min and bce against the reference implementation's values, loops, and known numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import bce_loss, tree_min_loss
from tests.helpers import value_and_gradient

GOLDEN = Path(__file__).parent / "golden"
SEEDS = range(12)
NORMALIZATIONS = ("level_mean", "node_mean", "sum")


@pytest.mark.parametrize("gamma, key", [(0.0, "tree_min"), (2.0, "focal_tree_min")])
@pytest.mark.parametrize("tree", ["cityscapes", "lip", "pascal_person_part"])
def test_agrees_with_the_reference_implementation(tree, gamma, key):
    stored = np.load(GOLDEN / f"{tree}.npz")
    labels = torch.tensor(stored["labels"]).long()
    value, gradient = value_and_gradient(
        tree_min_loss,
        torch.tensor(stored["logits"]),
        labels,
        Hierarchy.load(tree),
        gamma=gamma,
        normalize="level_mean",
    )
    assert abs(value.item() - float(stored[key])) < 1e-5
    assert np.abs(gradient.numpy() - stored[f"{key}_grad"]).max() < 1e-6


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_tree_min_equals_the_loop_on_ragged_trees(oracle, seed, gamma):
    hierarchy, logits, labels = oracle.random_case(seed)
    normalize = NORMALIZATIONS[seed % 3]
    expected = value_and_gradient(
        oracle.node_loss,
        logits,
        labels,
        hierarchy,
        consistent=True,
        gamma=gamma,
        normalize=normalize,
    )
    found = value_and_gradient(
        tree_min_loss, logits, labels, hierarchy, gamma=gamma, normalize=normalize
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    single = value_and_gradient(
        tree_min_loss, logits.float(), labels, hierarchy, gamma=gamma, normalize=normalize
    )
    torch.testing.assert_close(single[0], expected[0].float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(single[1], expected[1].float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_bce_equals_the_loop_on_ragged_trees(oracle, seed):
    hierarchy, logits, labels = oracle.random_case(seed)
    weights = torch.rand(hierarchy.num_nodes) + 0.5
    options = {"normalize": NORMALIZATIONS[seed % 3], "node_weights": weights}
    expected = value_and_gradient(
        oracle.node_loss, logits, labels, hierarchy, consistent=False, **options
    )
    found = value_and_gradient(bce_loss, logits, labels, hierarchy, **options)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_bce_of_leaf_labels_is_the_stock_function(cityscapes):
    logits = torch.randn(2, 26, 5, 7)
    labels = torch.randint(0, 19, (2, 5, 7))
    targets = torch.tensor(cityscapes.ancestor_matrix)[labels].permute(0, 3, 1, 2).float()
    expected = value_and_gradient(F.binary_cross_entropy_with_logits, logits, targets)
    found = value_and_gradient(bce_loss, logits, labels, cityscapes, normalize="node_mean")
    torch.testing.assert_close(found, expected)


def test_children_that_tie_share_the_weight_of_their_parent(cityscapes):
    human, person, rider = (cityscapes[name] for name in ("human", "person", "rider"))
    logits = torch.full((1, 26, 1, 1), -9.0)
    logits[0, [person, rider]] = 1.0
    labels = torch.full((1, 1, 1), cityscapes["road"])
    _, gradient = value_and_gradient(tree_min_loss, logits, labels, cityscapes, normalize="sum")
    slope = torch.tensor(1.0).sigmoid().item()
    assert gradient[0, human] == 0
    assert gradient[0, [person, rider]].sum().item() == pytest.approx(3 * slope)


def test_node_weights_equal_the_loop(oracle):
    hierarchy, logits, labels = oracle.random_case(5)
    weights = torch.rand(hierarchy.num_nodes)
    expected = oracle.node_loss(
        logits, labels, hierarchy, consistent=True, gamma=2.0, node_weights=weights
    )
    found = tree_min_loss(logits, labels, hierarchy, gamma=2.0, node_weights=weights)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_term_is_right_far_out(cityscapes, gamma):
    """At -100 and 100 the limits hold: no term, and the logit itself."""
    labels = torch.full((1, 1, 1), cityscapes["road"])
    path = list(cityscapes.path("road"))
    right = torch.full((1, 26, 1, 1), -100.0)
    right[:, path] = 100.0
    value, gradient = value_and_gradient(
        tree_min_loss, right, labels, cityscapes, gamma=gamma, normalize="sum"
    )
    assert value.item() == pytest.approx(0, abs=1e-30)
    assert gradient.abs().max().item() < 1e-30
    value, gradient = value_and_gradient(
        tree_min_loss, -right, labels, cityscapes, gamma=gamma, normalize="sum"
    )
    assert value.item() == pytest.approx(26 * 100)
    # Each of the 7 top nodes takes itself where its children tie with it.
    expected = torch.ones(1, 26, 1, 1)
    expected[:, path] = -1
    torch.testing.assert_close(gradient, expected)


def test_small_terms_keep_their_digits():
    """The logarithm at hand loses values below its resolution, and only those."""
    tree = Hierarchy.from_dict(["a", "b"])
    logits = torch.tensor([30.0, -10.0]).reshape(1, 2, 1, 1)
    value = tree_min_loss(logits, torch.zeros(1, 1, 1, dtype=torch.long), tree, normalize="sum")
    assert value.item() == pytest.approx(math.log1p(math.exp(-10)), abs=1.2e-7)


def test_unknown_normalize_names_the_choices(cityscapes):
    arguments = (torch.zeros(1, 26, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), cityscapes)
    for function in (tree_min_loss, bce_loss):
        with pytest.raises(ValueError, match="'mean'.*level_mean.*node_mean.*sum"):
            function(*arguments, normalize="mean")
    with pytest.raises(ValueError, match="gamma must be a finite number, 0 or more, not -1.0"):
        tree_min_loss(*arguments, gamma=-1.0)
    with pytest.raises(ValueError, match=r"\(19,\).*'cityscapes'.*\(26,\)"):
        tree_min_loss(*arguments, node_weights=torch.ones(19))
