"""The weighted sum that heads call, its registry and what it says about bad configs."""

import pytest
import torch
from torch import nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import (
    HIERA_LOSSES,
    HierarchicalLoss,
    LossTerm,
    declared_decoding,
    valid_pixels,
)


def _batch(seed=0, size=(2, 8, 9)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], 26, *size[1:], generator=generator)
    labels = torch.randint(0, 26, size, generator=generator)
    labels[0, 0] = 255
    embeddings = torch.randn(size[0], 8, 4, 5, generator=generator)
    return logits, labels, embeddings


@pytest.fixture
def registry(monkeypatch):
    """The registry, which forgets after the test what was registered in it."""
    monkeypatch.setattr(HIERA_LOSSES, "_obj_map", dict(HIERA_LOSSES._obj_map))
    return HIERA_LOSSES


def test_losses_are_weighted_and_get_their_options(cityscapes):
    logits, labels, _ = _batch()
    terms = [
        ("tree_min", 1.0, {"normalize": "sum"}),
        ("focal_tree_min", 2.0, {"gamma": 1.5, "normalize": "node_mean"}),
        ("bce", 3.0, {"normalize": "level_mean"}),
        ("level_ce", 4.0, {"level_weights": [0.5, 2.0]}),
        ("marginal_ce", 5.0, {"level_weights": []}),
    ]
    loss = HierarchicalLoss(cityscapes, terms, 255)
    found = loss(logits, labels)
    assert loss.names == tuple(name for name, *_ in terms) and loss.needs == {"logits"}
    for name, weight, options in terms:
        value = HIERA_LOSSES.get(name).function(logits, labels, cityscapes, **options)
        torch.testing.assert_close(found[f"loss_{name}"], weight * value)


def test_triplet_schedule(cityscapes):
    logits, labels, embeddings = _batch()
    loss = HierarchicalLoss(cityscapes, [("tree_triplet", 2.0, {"schedule_iters": 100})])

    def value(iteration):
        generator = torch.Generator().manual_seed(0)
        arguments = {"iteration": iteration, "generator": generator}
        return loss(logits, labels, embeddings, **arguments)["loss_tree_triplet"].item()

    assert value(0) == 0
    assert value(50) == pytest.approx(value(None) / 2)
    assert value(100) == value(None) > 0


def test_a_constant_margin_passes_and_a_negative_one_means_the_trees_own(cityscapes):
    labels = torch.tensor([[[cityscapes[name] for name in ("car", "bus", "road")]]])
    embeddings = torch.ones(1, 4, 1, 3)
    for margin, expected in ((0.3, 0.3), (0.0, 0.0), (-1.0, 0.35), (None, 0.35)):
        module = HIERA_LOSSES.get("tree_triplet")(cityscapes, margin=margin)
        assert module(embeddings, labels).item() == pytest.approx(expected)


def test_valid_pixels_counts_what_reaches_each_level():
    tree = Hierarchy.from_dict({"a": {"b": ["c", "d"]}, "e": None})
    labels = torch.tensor([[[tree[n] for n in "aabcde"] + [255, 255]]])
    assert valid_pixels(labels, tree, 255).tolist() == [6, 6, 4, 3]
    assert valid_pixels(labels[..., -2:], tree, 255).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="labels hold 255"):
        valid_pixels(labels, tree, -1)


def test_a_users_own_loss(cityscapes, registry):
    @registry.register(name="own_loss_of_a_test")
    class Own(nn.Module):
        needs = "logits"

        def __init__(self, hierarchy, *, ignore_label, scale=1.0):
            super().__init__()
            self.scale = scale

        def forward(self, logits, labels, *, valid_count=None):
            return self.scale * logits.sum() / valid_count

    loss = HierarchicalLoss(cityscapes, [("own_loss_of_a_test", 2.0, {"scale": 3.0})])
    logits, labels, _ = _batch()
    count = torch.tensor([4.0, 1.0, 1.0])
    found = loss(logits, labels, valid_count=count)["loss_own_loss_of_a_test"]
    torch.testing.assert_close(found, 1.5 * logits.sum())


@pytest.mark.parametrize(
    "terms, message",
    [
        ([], "MODEL.HIERA_SEG.LOSSES is empty; known losses: .*'tree_min'"),
        ([("tree_mim", 1, {})], "MODEL.HIERA_SEG.LOSSES names an unknown loss 'tree_mim'.*'bce'"),
        ([("bce", 1, {}), ("bce", 1, {})], "MODEL.HIERA_SEG.LOSSES names 'bce' twice"),
        ([("bce", -1, {})], "the weight of 'bce' must be a finite number"),
        ([("bce", "x", {})], "the weight of 'bce' must be a finite number"),
        ([("bce", 1, {"gamma": 2})], "MODEL.HIERA_SEG.BCE.GAMMA: .*its options: NORMALIZE"),
        ([("bce", 1, {"normalize": "mean"})], "MODEL.HIERA_SEG.BCE: .*'mean'.*level_mean"),
        ([("focal_tree_min", 1, {"gamma": -2})], "MODEL.HIERA_SEG.FOCAL_TREE_MIN: gamma"),
        ([("focal_tree_min", 1, {"gamma": "two"})], "MODEL.HIERA_SEG.FOCAL_TREE_MIN: gamma"),
        ([("level_ce", 1, {"level_weights": [1]})], "MODEL.HIERA_SEG.LEVEL_CE: .*1 weights"),
        ([("level_ce", 1, {"level_weights": 3})], "MODEL.HIERA_SEG.LEVEL_CE: "),
        (
            [("tree_triplet", 1, {"samples_per_class": 0})],
            "MODEL.HIERA_SEG.TREE_TRIPLET: samples_per_class",
        ),
    ],
)
def test_bad_configs_name_the_key(cityscapes, terms, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalLoss(cityscapes, terms, 255)


def test_the_decoding_that_losses_declare(registry):
    for variant in ("joint_softmax", "leaf"):
        own = type("Own", (LossTerm,), {"decoding": variant})
        registry.register(own, name=f"own_{variant}")
    registry.register(type("Silent", (LossTerm,), {}), name="silent")
    assert declared_decoding(["own_joint_softmax"]) == "joint_softmax"
    assert declared_decoding(["tree_triplet", "silent", "own_joint_softmax"]) == "joint_softmax"
    assert declared_decoding(["own_joint_softmax", "own_leaf"]) == "leaf"
    assert declared_decoding(["own_joint_softmax", "rmi"]) == "path_sum"
    assert declared_decoding(["tree_triplet", "silent", "not_registered"]) is None
    with pytest.raises(ValueError, match="'bad'.* 'softmax'.*joint_softmax"):
        registry.register(type("Bad", (LossTerm,), {"decoding": "softmax"}), name="bad")


def test_the_old_name_of_the_normalizer_is_read_with_a_warning(cityscapes, registry):
    class Old(nn.Module):
        needs, counts = "logits", "levels"

        def __init__(self, hierarchy, *, ignore_label):
            super().__init__()

        def forward(self, logits, labels, *, valid_count=None):
            return valid_count.sum() + 0 * logits.sum()

    with pytest.warns(FutureWarning, match="'old'.*`counts`.*`normalizer`"):
        registry.register(Old, name="old")
    loss = HierarchicalLoss(cityscapes, [("old", 1.0, {})])
    logits, labels, _ = _batch()
    assert loss(logits, labels, valid_count=torch.tensor([1.0, 2, 3]))["loss_old"] == 5


def test_options_of_a_term_made_from_a_function(cityscapes, registry):
    def scaled(logits, labels, hierarchy, *, scale=1.0, ignore_label=255, valid_count=None):
        if scale < 0:
            raise ValueError(f"scale is {scale}")
        return scale * logits.sum() / (1 if valid_count is None else valid_count)

    @registry.register(name="scaled")
    class Scaled(LossTerm, function=scaled, scale=2.0, ramp=0):
        decoding = None

        def weight_at(self, iteration):
            return iteration / self.ramp

    loss = HierarchicalLoss(cityscapes, [("scaled", 3.0, {"ramp": 10})])
    logits, labels, _ = _batch()
    found = loss(logits, labels, valid_count=torch.tensor([4.0, 1, 1]), iteration=5)["loss_scaled"]
    torch.testing.assert_close(found, 3 * 0.5 * 2 * logits.sum() / 4)
    assert "scale=2.0" in repr(loss)
    with pytest.raises(ValueError, match="SCALED: scale is -1"):
        HierarchicalLoss(cityscapes, [("scaled", 1.0, {"scale": -1})])
    with pytest.raises(ValueError, match="SCALED.RAMPS: .*SCALE, RAMP"):
        HierarchicalLoss(cityscapes, [("scaled", 1.0, {"ramps": 1})])


def test_missing_inputs(cityscapes):
    logits, labels, _ = _batch()
    with pytest.raises(ValueError, match="'tree_triplet' needs embeddings"):
        HierarchicalLoss(cityscapes, [("tree_triplet", 1, {})])(logits, labels)
