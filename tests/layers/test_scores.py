"""Scores of nodes and leaves against a loop in float64 over the parents of each node."""

import numpy as np
import pytest
import torch

from hiera_seg import Hierarchy
from hiera_seg.layers.scores import DECODE_VARIANTS, NodeOutput, mean_scores, node_scores
from tests.random_trees import random_tree

RAGGED = {"sky": None, "flat": ["road", "path"], "vehicle": {"van": None, "car": ["bus", "taxi"]}}
TREES = {
    "ragged": RAGGED,
    "one level": ["a", "b", "c"],
    "one node": ["a"],
    "chain": {"a": {"b": ["c"]}},
    **{f"random {seed}": random_tree(np.random.default_rng(seed)) for seed in (1, 2, 3, 4)},
}


def path(parent, node):
    """Nodes from the top down to a node, from the parents alone."""
    nodes = [node]
    while parent[nodes[0]] >= 0:
        nodes.insert(0, int(parent[nodes[0]]))
    return nodes


def standing(parent, leaf, level):
    nodes = path(parent, leaf)
    return nodes[min(level, len(nodes) - 1)]


def softmax(values):
    e = np.exp(values - values.max())
    return e / e.sum()


def oracle(z, hierarchy, variant):
    """Scores at each level {node: score} and of the leaves, of one pixel's node logits."""
    parent, num_leaves = hierarchy.parent, hierarchy.num_leaves
    levels = range(max(len(path(parent, leaf)) for leaf in range(num_leaves)))
    at = []
    for level in levels:
        nodes = sorted({standing(parent, leaf, level) for leaf in range(num_leaves)})
        if variant == "level_softmax":
            at.append(dict(zip(nodes, softmax(z[nodes]), strict=True)))
        elif variant == "joint_softmax":
            at.append({v: softmax(z)[v] for v in nodes})
        elif variant in ("marginal", "marginal_path_sum"):
            p = softmax(z[:num_leaves])
            below = {v: [u for u in range(num_leaves) if v in path(parent, u)] for v in nodes}
            at.append({v: sum(p[u] for u in below[v]) for v in nodes})
        else:
            at.append({v: 1 / (1 + np.exp(-z[v])) for v in nodes})
    leaves = []
    for leaf in range(num_leaves):
        terms = [at[level][standing(parent, leaf, level)] for level in levels]
        if variant in ("leaf", "marginal"):
            leaves.append(terms[-1])
        else:
            leaves.append(np.prod(terms) if variant == "path_product" else sum(terms))
    return at, np.array(leaves)


@pytest.mark.parametrize("variant", DECODE_VARIANTS)
@pytest.mark.parametrize("tree", TREES)
def test_scores_equal_a_loop_over_pixels(tree, variant):
    hierarchy = Hierarchy.from_dict(TREES[tree])
    generator = torch.Generator().manual_seed(0)
    shape = (2, hierarchy.num_nodes, 3, 2)
    z = 4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    scores = node_scores(NodeOutput(z, "logits"), hierarchy, variant)
    for image, row, column in np.ndindex(2, 3, 2):
        at, leaves = oracle(z[image, :, row, column].numpy(), hierarchy, variant)
        np.testing.assert_allclose(scores.leaves()[image, :, row, column], leaves, rtol=1e-12)
        for level, expected in enumerate(at):
            ours = scores.at_level(level)[image, :, row, column]
            nodes = hierarchy.level_nodes(level)
            wanted = [expected[int(node)] for node in nodes]
            np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("variant", DECODE_VARIANTS)
def test_mean_scores_are_those_of_the_nodes(variant):
    hierarchy = Hierarchy.from_dict(RAGGED)
    outputs = torch.randn(2, 1, hierarchy.num_nodes, 2, 3, dtype=torch.float64)
    views = [node_scores(NodeOutput(z, "logits"), hierarchy, variant) for z in outputs]
    expected = [sum(view.at_level(level) for view in views) / 2 for level in range(3)]
    mean = mean_scores(views)
    for level, wanted in enumerate(expected):
        torch.testing.assert_close(mean.at_level(level), wanted)


def test_bfloat16_logits_are_scored_in_float32():
    hierarchy = Hierarchy.from_dict(RAGGED)
    z = torch.randn(1, hierarchy.num_nodes, 4, 4).bfloat16()
    leaves = node_scores(NodeOutput(z, "logits"), hierarchy, "path_sum").leaves()
    exact = node_scores(NodeOutput(z.double(), "logits"), hierarchy, "path_sum").leaves()
    assert leaves.dtype == torch.float32
    torch.testing.assert_close(leaves.double(), exact, rtol=1e-6, atol=1e-6)


def test_products_of_improbable_nodes_still_rank_the_leaves():
    hierarchy = Hierarchy.from_dict({"a": ["x", "y"], "b": ["z"]})
    z = torch.full((1, hierarchy.num_nodes, 1, 1), -100.0)
    z[0, hierarchy["y"]] = -99.0
    scores = node_scores(NodeOutput(z, "logits"), hierarchy, "path_product")
    assert scores.leaf_ranking()[0, :, 0, 0].argmax() == hierarchy["y"]


def test_query_scores_are_taken_as_they_are():
    hierarchy = Hierarchy.from_dict({"a": ["x", "y"]})
    values = torch.tensor([1.5, 0.5, 2.0]).view(1, 3, 1, 1)
    given = NodeOutput(values, "scores")
    assert node_scores(given, hierarchy, "path_sum").leaves().flatten().tolist() == [3.5, 2.5]
    assert node_scores(given, hierarchy, "leaf").leaves().flatten().tolist() == [1.5, 0.5]
    assert node_scores(given, hierarchy, "leaf").at_level(0).flatten().tolist() == [2.0]


@pytest.mark.parametrize("variant", sorted(set(DECODE_VARIANTS) - {"path_sum", "leaf"}))
def test_query_scores_refuse_what_needs_logits(variant):
    hierarchy = Hierarchy.from_dict({"a": ["x", "y"]})
    with pytest.raises(ValueError, match=f"{variant}.*logits.*'scores'.*'path_sum', 'leaf'"):
        node_scores(NodeOutput(torch.zeros(1, 3, 1, 1), "scores"), hierarchy, variant)


def test_bad_arguments_name_the_value_and_what_is_allowed():
    hierarchy = Hierarchy.from_dict({"a": ["x", "y"]}, name="small")
    good = torch.zeros(1, 3, 1, 1)
    with pytest.raises(ValueError, match="'sum'.*path_sum"):
        node_scores(NodeOutput(good, "logits"), hierarchy, "sum")
    with pytest.raises(ValueError, match="'masks'.*logits"):
        node_scores(NodeOutput(good, "masks"), hierarchy, "path_sum")
    with pytest.raises(ValueError, match=r"\(1, 2, 1, 1\).*'small'.*\(B, 3, H, W\)"):
        node_scores(NodeOutput(good[:, :2], "logits"), hierarchy, "path_sum")
