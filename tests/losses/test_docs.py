"""The examples of docs/losses.md run, and its numbers are those of the functions."""

import re

import pytest
import torch

from hiera_seg.losses import HIERA_LOSSES, HierarchicalLoss, tree_min_loss
from tests.helpers import read_page, run_code

PAGE = read_page("docs/losses.md")


def test_examples_run(cityscapes):
    try:
        names = run_code("docs/losses.md")
        loss = HierarchicalLoss(cityscapes, [("small_logits", 0.1, {"power": 1.0})])
    finally:  # configs of other tests would have a node for it
        HIERA_LOSSES._obj_map.pop("small_logits", None)
    assert torch.isfinite(names["logits"].grad).all()
    found = loss(torch.ones(1, 26, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    assert found["loss_small_logits"].item() == pytest.approx(0.1)


def test_every_loss_is_described():
    ours = [name for name, loss in HIERA_LOSSES if loss.__module__.startswith("hiera_seg.")]
    assert "tree_min" in ours
    for name in ours:
        assert f"| `{name}` |" in PAGE


def test_table_of_normalisations(cityscapes):
    row = r"^\| `\"(\w+)\"`.*?\| ([\d.]+), ([\d.]+) \| ([\d.]+) \|$"
    rows = re.findall(row, PAGE, flags=re.M)
    assert [row[0] for row in rows] == ["level_mean", "node_mean", "sum"]
    labels = torch.full((1, 1, 1), cityscapes["car"])
    for normalize, plain, focal, gradient in rows:
        logits = torch.zeros(1, 26, 1, 1, requires_grad=True)
        value = tree_min_loss(logits, labels, cityscapes, gamma=2.0, normalize=normalize)
        value.backward()
        assert value.item() == pytest.approx(float(focal), rel=5e-4)
        assert -logits.grad[0, cityscapes["car"]].item() == pytest.approx(float(gradient), rel=5e-3)
        value = tree_min_loss(logits, labels, cityscapes, normalize=normalize)
        assert value.item() == pytest.approx(float(plain), rel=5e-4)
