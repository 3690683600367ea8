"""Losses inside functions that torch.compile compiles."""

import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import (
    bce_loss,
    level_ce_loss,
    marginal_ce_loss,
    rmi_loss,
    tree_min_loss,
    tree_triplet_loss,
)

LOSSES = [bce_loss, level_ce_loss, marginal_ce_loss, rmi_loss, tree_min_loss, tree_triplet_loss]


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="torch before 2.1 cannot step over")
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_compiled_function_may_call_a_loss(loss):
    # A tree of its own, whose tables are made while the function is traced.
    tree = Hierarchy.from_paths([f"{loss.__name__}/{name}" for name in "abc"] + ["other"])
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, tree.num_leaves, (1, 12, 12), generator=generator)
    values = torch.randn(1, tree.num_nodes, 12, 12, generator=generator, requires_grad=True)

    def doubled(values):
        return loss(values * 2, labels, tree) + 1

    torch.manual_seed(0)
    compiled = torch.compile(doubled, backend="eager")(values)
    (compiled_gradient,) = torch.autograd.grad(compiled, values)
    torch.manual_seed(0)
    assert torch.equal(torch.compile(loss, backend="eager")(values * 2, labels, tree) + 1, compiled)
    torch.manual_seed(0)
    plain = doubled(values)
    (gradient,) = torch.autograd.grad(plain, values)
    assert torch.equal(compiled, plain)
    assert torch.equal(compiled_gradient, gradient)
    assert gradient.abs().sum() > 0
