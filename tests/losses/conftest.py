"""Random trees, labels of any depth, and the losses as plain loops over pixels and nodes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from tests.random_trees import random_hierarchy

VOID = 255


def random_case(seed, *, height=3, width=4, batch=2, void=0.2, coarse=True):
    """A ragged tree, float64 logits and labels of any depth with some void."""
    rng = np.random.default_rng(seed)
    hierarchy = random_hierarchy(rng, int(rng.integers(1, 5)))
    size = (batch, height, width)
    labels = rng.integers(0, hierarchy.num_nodes if coarse else hierarchy.num_leaves, size)
    labels[rng.random(size) < void] = VOID
    logits = 3 * rng.standard_normal((batch, hierarchy.num_nodes, height, width))
    return hierarchy, torch.tensor(logits), torch.tensor(labels)


def _pixels(logits, labels):
    for b, y, x in np.ndindex(*labels.shape):
        yield logits[b, :, y, x], int(labels[b, y, x])


def _negative_term(x, gamma):
    """-(s^g) log(1 - s), by the formula; logits in the oracle are moderate."""
    s = torch.sigmoid(x)
    return -(s**gamma) * torch.log1p(-s)


def node_loss(
    logits, labels, hierarchy, *, consistent, gamma=0.0, normalize="sum", node_weights=None
):
    """tree_min and bce by their definitions."""
    count = int((labels != VOID).sum())
    nodes_at = [int((hierarchy.node_level == n).sum()) for n in range(hierarchy.num_levels)]
    total = logits.sum() * 0
    for z, label in _pixels(logits, labels):
        if label == VOID:
            continue
        positive = hierarchy.ancestors(label)
        unknown = [v for v in hierarchy.descendants(label) if v != label]
        for v in range(hierarchy.num_nodes):
            if v in unknown:
                continue
            if v in positive:
                x = min(z[u] for u in hierarchy.ancestors(v)) if consistent else z[v]
                term = _negative_term(-x, gamma)
            else:
                x = max(z[u] for u in hierarchy.descendants(v)) if consistent else z[v]
                term = _negative_term(x, gamma)
            divisor = {
                "sum": 1,
                "node_mean": hierarchy.num_nodes,
                "level_mean": nodes_at[hierarchy.node_level[v]],
            }[normalize]
            weight = 1.0 if node_weights is None else float(node_weights[v])
            total = total + weight * term / divisor
    return total / max(count, 1)


def _node_at(hierarchy, label, level):
    """The node standing for a label at a level, None where the label does not reach it."""
    standing = [v for v in hierarchy.ancestors(label) if v in hierarchy.level_nodes(level)]
    return standing[0] if standing else None


def level_ce(logits, labels, hierarchy, weights):
    total = logits.sum() * 0
    for level in range(hierarchy.num_levels):
        nodes = hierarchy.level_nodes(level).tolist()
        terms = []
        for z, label in _pixels(logits, labels):
            node = None if label == VOID else _node_at(hierarchy, label, level)
            if node is not None:
                terms.append(torch.logsumexp(z[nodes], 0) - z[node])
        if terms:
            total = total + weights[level] * sum(terms) / len(terms)
    return total


def marginal_ce(logits, labels, hierarchy, weights):
    total = logits.sum() * 0
    for level in range(hierarchy.num_levels):
        terms = []
        for z, label in _pixels(logits, labels):
            node = None if label == VOID else _node_at(hierarchy, label, level)
            if node is not None:
                inside = [v for v in hierarchy.descendants(node) if v < hierarchy.num_leaves]
                every = torch.softmax(z[: hierarchy.num_leaves], 0)
                terms.append(-torch.log(sum(every[v] for v in inside)))
        if terms:
            total = total + weights[level] * sum(terms) / len(terms)
    return total


def triplet(embeddings, labels, hierarchy, triplets, *, margin_eps=0.1, margin=None):
    """The loss of given triplets, classes and means found again from the labels."""
    vectors = embeddings.permute(0, 2, 3, 1).flatten(0, 2)
    label = labels.flatten()
    psi = hierarchy.distance_matrix
    by_class = {}
    for i, p, n, weight in zip(
        triplets.anchor.tolist(),
        triplets.positive.tolist(),
        triplets.negative.tolist(),
        triplets.weight.tolist(),
        strict=True,
    ):
        if weight == 0:
            continue
        gap = int(psi[label[i], label[n]]) - int(psi[label[i], label[p]])
        m = margin_eps + 0.5 * gap / (2 * hierarchy.height) if margin is None else margin
        unit = [v / math.sqrt(float((v.double() ** 2).sum())) for v in vectors[[i, p, n]]]
        near, far = (1 - unit[0] @ unit[1]) / 2, (1 - unit[0] @ unit[2]) / 2
        by_class.setdefault(int(label[i]), []).append(max(float(near - far + m), 0.0))
    means = [sum(terms) / len(terms) for terms in by_class.values()]
    return sum(means) / len(means) if means else 0.0


@pytest.fixture(scope="session")
def oracle():
    return SimpleNamespace(
        random_case=random_case,
        node_loss=node_loss,
        level_ce=level_ce,
        marginal_ce=marginal_ce,
        triplet=triplet,
        VOID=VOID,
    )


@pytest.fixture(scope="session")
def cityscapes():
    return Hierarchy.load("cityscapes")
