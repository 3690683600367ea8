"""Weights of nodes: from counts, through a file, into the losses."""

import json

import numpy as np
import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import (
    HIERA_LOSSES,
    NODE_WEIGHT_METHODS,
    HierarchicalLoss,
    level_ce_loss,
    marginal_ce_loss,
    node_weights_from_counts,
    read_node_counts,
    write_node_counts,
)


@pytest.fixture
def tree() -> Hierarchy:
    return Hierarchy.from_dict(
        {"flat": ["road", "path"], "vehicle": {"car": None, "bus": None}, "sky": None}
    )


def test_the_rarer_weighs_more_among_those_of_its_level(tree):
    # leaves road 600, path 0, car 300, bus 75, sky 25; 100 vehicles of unknown kind
    pixels = np.zeros(tree.num_nodes)
    for name, count in {"road": 600, "car": 300, "bus": 75, "sky": 25, "vehicle": 100}.items():
        pixels[tree[name]] = count

    def weights(method):
        found = node_weights_from_counts(pixels, tree, method)
        return {name: found[node] for node, name in enumerate(tree.node_names)}

    found = weights("median")  # of leaves (75 + 300) / 2
    assert found["road"] == pytest.approx(187.5 / 600)
    assert found["sky"] == pytest.approx(187.5 / 25)
    assert found["path"] == 1
    assert found["flat"] == pytest.approx(537.5 / 600)  # flat 600, vehicle 475
    assert found["vehicle"] == pytest.approx(537.5 / 475)
    found = weights("inverse")
    assert found["sky"] / found["road"] == pytest.approx(24)
    limited = node_weights_from_counts(pixels, tree, "median", maximum=2.0)
    assert limited[tree["sky"]] == 2
    assert limited[tree["road"]] == pytest.approx(187.5 / 600)
    found = weights("inverse_sqrt")
    assert found["sky"] / found["road"] == pytest.approx(24**0.5)
    assert np.mean([found[name] for name in ("road", "car", "bus", "sky")]) == pytest.approx(1)
    assert np.mean([found[name] for name in ("flat", "vehicle")]) == pytest.approx(1)


@pytest.mark.parametrize("method", NODE_WEIGHT_METHODS)
def test_a_level_without_a_pixel_weighs_1(tree, method):
    leaves = np.zeros(tree.num_nodes)
    leaves[tree["vehicle"]] = 5  # coarse labels alone
    np.testing.assert_allclose(node_weights_from_counts(leaves, tree, method), 1)


@pytest.mark.parametrize(
    ("pixels", "method", "message"),
    [
        (np.ones(7), "log", "method is 'log'"),
        (np.ones(6), "median", r"7 nodes .* found shape \(6,\)"),
        (-np.ones(7), "median", "minimum -1"),
        (np.zeros(7), "median", "pixels are all 0"),
    ],
)
def test_bad_counts(tree, pixels, method, message):
    with pytest.raises(ValueError, match=message):
        node_weights_from_counts(pixels, tree, method)


def test_counts_survive_a_file_and_are_found_by_path(tree, tmp_path):
    file = tmp_path / "counts.json"
    write_node_counts(file, {"flat/road": 3, "sky": 2**40}, datasets=["a"])
    pixels = read_node_counts(file, tree)
    assert pixels[tree["road"]] == 3 and pixels[tree["sky"]] == 2**40 and pixels.sum() == 3 + 2**40
    assert json.loads(file.read_text())["datasets"] == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not a file of tools/count_nodes.py"),
        ("[]", "is not a file of tools/count_nodes.py"),
        ('{"pixels": {"flat/road": "many"}}', "is not a file of tools/count_nodes.py"),
        ('{"pixels": {"flat/road": Infinity}}', "is not a file of tools/count_nodes.py"),
        ('{"pixels": {"flat/roads": 3}}', "counts 'flat/roads', which is not in tree"),
        ('{"pixels": {"sky": 1, "flat/road": -3}}', "counts -3 pixels of 'flat/road'; .* 0 to"),
        ('{"pixels": {"flat/road": 9223372036854775808}}', "counts 92.*08 pixels of 'flat/road'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tree, tmp_path, content, message):
    file = tmp_path / "counts.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=f"{file}.* ?{message}"):
        read_node_counts(file, tree)


def _case(tree):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, tree.num_nodes, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(tree.num_nodes, (2, 5, 6), generator=generator)
    labels[0, 0] = 255
    weights = torch.rand(tree.num_nodes, generator=generator, dtype=torch.float64) + 0.1
    return logits, labels, weights


@pytest.mark.parametrize("function", [level_ce_loss, marginal_ce_loss])
def test_cross_entropies_weigh_each_pixel_by_its_node_at_the_level(tree, function):
    logits, labels, weights = _case(tree)
    found = function(logits, labels, tree, node_weights=weights)
    expected = 0.0
    for level in range(tree.num_levels):
        at_level = [tree.level_ancestor[level][v] if v != 255 else -1 for v in labels.flatten()]
        reached = sum(int(v >= 0) for v in at_level)
        only = [float(k == level) for k in range(tree.num_levels)]
        for node in tree.level_nodes(level):
            mask = (torch.tensor(at_level) == int(node)).view(labels.shape)
            alone = torch.where(mask, labels, 255)
            count = torch.tensor([float(reached)] * tree.num_levels)
            expected += weights[node] * function(
                logits, alone, tree, level_weights=only, valid_count=count
            )
    torch.testing.assert_close(found, expected)
    doubled = function(logits, labels, tree, node_weights=2 * torch.ones(tree.num_nodes))
    torch.testing.assert_close(doubled, 2 * function(logits, labels, tree))


@pytest.mark.parametrize("name", ["tree_min", "focal_tree_min", "bce", "level_ce", "marginal_ce"])
def test_modules_keep_weights_out_of_their_state(tree, name):
    logits, labels, weights = _case(tree)
    module = HIERA_LOSSES.get(name)(tree, node_weights=weights.tolist())
    plain = HIERA_LOSSES.get(name)(tree)
    assert module(logits, labels) != plain(logits, labels)
    assert not module.state_dict()
    with pytest.raises(ValueError, match=r"node_weights have shape \(2,\)"):
        HIERA_LOSSES.get(name)(tree, node_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="finite and 0 or more"):
        HierarchicalLoss(tree, [(name, 1.0, {"node_weights": [-1.0] * tree.num_nodes})])
