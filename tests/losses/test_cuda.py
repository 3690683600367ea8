"""On a GPU: the CPU's results, no waiting for the device, and the device's own label check."""

import pytest
import torch

from hiera_seg.losses import (
    HierarchicalLoss,
    bce_loss,
    level_ce_loss,
    marginal_ce_loss,
    tree_min_loss,
    tree_triplet_loss,
    valid_pixels,
)
from tests.helpers import run_python

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LOSSES = [tree_min_loss, bce_loss, level_ce_loss, marginal_ce_loss]


def _batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 26, 33, 47, generator=generator)
    labels = torch.randint(0, 26, (2, 33, 47), generator=generator)
    labels[0, :5] = 255
    embeddings = torch.randn(2, 16, 9, 12, generator=generator)
    return logits, labels, embeddings


@pytest.mark.parametrize("function", LOSSES, ids=lambda f: f.__name__)
def test_agrees_with_the_cpu(cityscapes, function):
    logits, labels, _ = _batch()
    results = []
    for device in ("cpu", "cuda"):
        leaf = logits.to(device).requires_grad_()
        value = function(leaf, labels.to(device), cityscapes)
        value.backward()
        results.append((value.detach().cpu(), leaf.grad.cpu()))
    torch.testing.assert_close(*results)


def test_a_cpu_generator_draws_the_same_triplets(cityscapes):
    _, labels, embeddings = _batch()
    values = [
        tree_triplet_loss(
            embeddings.to(device),
            labels.to(device),
            cityscapes,
            generator=torch.Generator().manual_seed(1),
        ).cpu()
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*values)


def test_nothing_waits_for_the_device(cityscapes):
    logits, labels, embeddings = (tensor.cuda() for tensor in _batch())
    names = ("tree_min", "focal_tree_min", "bce", "level_ce", "marginal_ce", "tree_triplet")
    loss = HierarchicalLoss(cityscapes, [(name, 1.0, {}) for name in names])

    def step():
        counts = valid_pixels(labels, cityscapes, 255)
        leaves = logits.clone().requires_grad_(), embeddings.clone().requires_grad_()
        losses = loss(leaves[0], labels, leaves[1], valid_count=counts)
        sum(losses.values()).backward()

    step()  # makes the tables, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("check", ["0", "1"])
def test_labels_outside_the_tree(check, monkeypatch):
    monkeypatch.setenv("HIERA_SEG_CHECK", check)
    code = (
        "import torch; from hiera_seg import Hierarchy; from hiera_seg.losses import bce_loss\n"
        "tree = Hierarchy.load('cityscapes'); labels = torch.full((1, 2, 2), 77).cuda()\n"
        "bce_loss(torch.zeros(1, 26, 2, 2).cuda(), labels, tree); torch.cuda.synchronize()"
    )
    done = run_python("-c", code)
    assert done.returncode != 0
    assert ("labels hold 77" if check == "1" else "assert") in done.stderr
