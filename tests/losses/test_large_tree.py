"""Losses on a tree of thousands of leaves: no table of pairs of nodes."""

import numpy as np
import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers import sibling_shares
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.losses import (
    bce_loss,
    level_ce_loss,
    marginal_ce_loss,
    node_weights_from_counts,
    rmi_loss,
    tree_min_loss,
    tree_triplet,
    tree_triplet_loss,
)
from hiera_seg.losses.queries.classes import LeafSoftmax
from hiera_seg.losses.queries.masks import point_targets

LEAVES = 3000


@pytest.fixture(scope="module")
def tree():
    return Hierarchy.from_paths([f"g{i % 10}/k{i % 200}/l{i}" for i in range(LEAVES)], name="large")


@pytest.fixture(scope="module")
def batch(tree):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, tree.num_nodes, 7, 8, generator=generator)
    labels = torch.randint(tree.num_nodes, (1, 7, 8), generator=generator)
    labels[0, 0, :4] = 65535
    return logits, labels


def tensors(value):
    """Return all tensors in nested tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for part in value for x in tensors(part)] if isinstance(value, tuple) else []


def test_no_table_grows_with_the_square_of_the_tree(tree, batch):
    logits, labels = batch
    options = {"ignore_label": 65535}
    for loss in (tree_min_loss, bce_loss, level_ce_loss, marginal_ce_loss, rmi_loss):
        loss(logits.clone().requires_grad_(), labels, tree, **options).backward()
    tree_triplet_loss(torch.randn(1, 4, 7, 8), labels, tree, **options)
    LeafSoftmax(tree).loss(torch.randn(5, LEAVES + 1), torch.tensor([0, 7, LEAVES, -1, 2]), 0.1)
    point_targets(labels[0, 1], labels[0, 2:].flatten(), tree, torch.float32)
    sibling_shares(np.ones(tree.num_nodes), tree)
    node_weights_from_counts(np.ones(tree.num_nodes), tree, "inverse")
    tables = [
        x for value in vars(TreeIndex.of(tree, logits.device)).values() for x in tensors(value)
    ]
    assert len(tables) > 10
    assert max(table.numel() for table in tables) <= tree.num_levels * (tree.num_nodes + 1)
    assert not {"ancestor_matrix", "distance_matrix"} & set(vars(tree))


@pytest.mark.parametrize("samples", [1, 4, 64])
@pytest.mark.parametrize("seed", range(8))
def test_numbering_the_leaves_that_are_present_draws_the_same_triplets(
    oracle, samples, seed, monkeypatch
):
    hierarchy, _, labels = oracle.random_case(seed, height=5, width=6)
    found = []
    for largest in (0, 1024):
        monkeypatch.setattr(tree_triplet, "_MAX_LEAVES", largest)
        generator = torch.Generator().manual_seed(seed)
        found.append(
            tree_triplet.sample_triplets(
                labels, hierarchy, samples_per_class=samples, generator=generator
            )
        )
    present, every = found
    for values, expected in zip(present, every, strict=True):
        assert torch.equal(values, expected[: len(values)])
    assert every.weight[len(present.weight) :].eq(0).all()


def test_a_large_tree_without_a_leaf_in_the_labels(tree):
    embeddings = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = tree_triplet_loss(embeddings, torch.full((1, 2, 2), LEAVES), tree, ignore_label=65535)
    loss.backward()
    assert loss == 0 and embeddings.grad.eq(0).all()
