"""level_ce and marginal_ce against loops and stock functions."""

import pytest
import torch
import torch.nn.functional as F

from hiera_seg.losses import level_ce_loss, marginal_ce_loss
from tests.helpers import value_and_gradient


@pytest.mark.parametrize("name", ["level_ce", "marginal_ce"])
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_loop_on_ragged_trees(oracle, seed, name):
    function = {"level_ce": level_ce_loss, "marginal_ce": marginal_ce_loss}[name]
    hierarchy, logits, labels = oracle.random_case(seed)
    weights = [1.0, 0.5, 0.0, 2.0][: hierarchy.num_levels][::-1]
    expected = value_and_gradient(
        lambda z: getattr(oracle, name)(z, labels, hierarchy, weights), logits
    )
    found = value_and_gradient(function, logits, labels, hierarchy, level_weights=weights)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_leaf_weight_alone_is_the_flat_baseline(cityscapes):
    logits = torch.randn(2, 26, 9, 11)
    labels = torch.randint(0, 19, (2, 9, 11))
    labels[:, 0] = 255
    expected = value_and_gradient(
        lambda z: F.cross_entropy(z[:, :19], labels, ignore_index=255), logits
    )
    for function in (level_ce_loss, marginal_ce_loss):
        found = value_and_gradient(
            lambda z, f=function: f(z, labels, cityscapes, level_weights=[0, 1]), logits
        )
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_a_level_that_no_label_reaches_adds_nothing(cityscapes):
    logits = torch.randn(1, 26, 1, 3)
    labels = torch.full((1, 1, 3), cityscapes["vehicle"])
    for function in (level_ce_loss, marginal_ce_loss):
        both = function(logits, labels, cityscapes)
        top = function(logits, labels, cityscapes, level_weights=[1, 0])
        leaf = function(logits, labels, cityscapes, level_weights=[0, 1])
        assert both == top > 0
        assert leaf == 0


def test_finite_far_out(cityscapes):
    """The true group 200 below the best leaf: its probability underflows, its logarithm not."""
    logits = torch.full((1, 26, 1, 1), -100.0)
    logits[0, cityscapes["road"]] = 100.0
    labels = torch.full((1, 1, 1), cityscapes["car"])
    value, gradient = value_and_gradient(marginal_ce_loss, logits, labels, cityscapes)
    leaves_of_vehicle = 6
    expected = 200 + 200 - torch.tensor(leaves_of_vehicle).log()
    torch.testing.assert_close(value, expected)
    assert gradient[0, cityscapes["road"]].item() == pytest.approx(2)
    assert gradient[0, cityscapes["car"]].item() == pytest.approx(-1 - 1 / leaves_of_vehicle)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("function", [level_ce_loss, marginal_ce_loss])
def test_level_weights_are_checked(cityscapes, function):
    arguments = (torch.zeros(1, 26, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), cityscapes)
    for weights in (None, [], (1, 1), torch.ones(2)):
        assert function(*arguments, level_weights=weights) == function(*arguments)
    with pytest.raises(ValueError, match="3 weights.*'cityscapes'.*2, one each for"):
        function(*arguments, level_weights=[1, 1, 1])
    with pytest.raises(ValueError, match="finite and 0 or more"):
        function(*arguments, level_weights=[1, -1])


def test_valid_count_per_level(cityscapes):
    logits = torch.randn(2, 26, 3, 4)
    labels = torch.randint(0, 26, (2, 3, 4))
    for function in (level_ce_loss, marginal_ce_loss):
        top = function(logits, labels, cityscapes, level_weights=[1, 0])
        leaf = function(logits, labels, cityscapes, level_weights=[0, 1])
        pixels, reached = 24, int((labels < 19).sum())
        found = function(logits, labels, cityscapes, valid_count=torch.tensor([12.0, 5.0]))
        torch.testing.assert_close(found, top * pixels / 12 + leaf * reached / 5)
        found = function(logits, labels, cityscapes, valid_count=10)
        torch.testing.assert_close(found, top * pixels / 10 + leaf * reached / 10)
        with pytest.raises(ValueError, match=r"valid_count has shape \(3,\)"):
            function(logits, labels, cityscapes, valid_count=torch.ones(3))
