from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from hiera_seg.errors import ConfigError
from hiera_seg.layers import PixelEmbeddings, SiblingAdjustment
from hiera_seg.losses import (
    HIERA_LOSSES,
    HierarchicalLoss,
    LossTerm,
    marginal_ce_loss,
    tree_min_loss,
    write_node_counts,
)
from hiera_seg.modeling import HieraPixelHead
from hiera_seg.modeling.heads.pixel import PixelOutput

LOSSES = "MODEL.HIERA_SEG.LOSSES"
AUXILIARY = "MODEL.HIERA_SEG.AUXILIARY.WEIGHT"
TRIPLET = "MODEL.HIERA_SEG.TREE_TRIPLET."
VOID = 255


def test_losses_are_those_of_the_upsampled_logits(make_model, make_inputs, hierarchy):
    model = make_model(LOSSES, [["tree_min", 0.7]], "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 3.0)
    head = model.train().sem_seg_head
    torch.nn.init.normal_(head.predictor.weight)
    inputs = make_inputs((64, 96), (64, 96))
    labels = torch.stack([sample["sem_seg"] for sample in inputs])
    features = model.backbone(torch.randn(2, 3, 64, 96))
    torch.manual_seed(0)  # of dropout in ASPP
    found = head(features, labels)[1]
    torch.manual_seed(0)
    logits = head.layers(features).logits
    logits = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    expected = tree_min_loss(logits, labels, hierarchy, normalize="sum", ignore_label=VOID)
    assert set(found) == {"loss_tree_min"}
    torch.testing.assert_close(found["loss_tree_min"], 3.0 * 0.7 * expected)


def test_padding_does_not_change_the_losses(make_model, make_inputs):
    head = make_model(LOSSES, [["tree_min", 1.0], ["level_ce", 1.0]], AUXILIARY, 1.0).sem_seg_head
    output = head.train().layers(
        {"res2": torch.randn(1, 16, 16, 24), "res4": torch.randn(1, 24, 4, 6)}
        | {"res5": torch.randn(1, 32, 2, 3)}
    )
    labels = make_inputs((64, 96))[0]["sem_seg"][None]
    with_void = labels.clone()
    with_void[:, :, 64:] = VOID
    cropped = output._replace(logits=output.logits[..., :16], auxiliary=output.auxiliary[..., :4])
    expected = head.losses(cropped, labels[:, :, :64])
    found = head.losses(output, with_void)
    for name, loss in found.items():  # only the columns at the seam are interpolated otherwise
        torch.testing.assert_close(loss, expected[name], rtol=0.03, atol=0)


def test_the_embedding_exists_only_where_a_loss_reads_it(make_model):
    assert make_model(LOSSES, [["bce", 1.0]]).sem_seg_head.embedding_head is None
    with_embedding = make_model(LOSSES, [["bce", 1.0], ["tree_triplet", 1.0]]).sem_seg_head
    assert with_embedding.embedding_head.project.out_channels == 16
    assert with_embedding.embedding_head.hidden.out_channels == 32  # as many as res5 has


def test_a_head_without_the_embedding_its_loss_needs_is_refused(make_model):
    head = make_model().sem_seg_head
    parts = {name: getattr(head, name) for name in ("hierarchy", "pixel_decoder", "loss")}
    with pytest.raises(ValueError, match="focal_tree_min, tree_triplet need embeddings"):
        HieraPixelHead(**parts, ignore_value=VOID)


def test_the_auxiliary_head_learns_leaves_only(make_model, make_inputs, hierarchy):
    head = make_model(AUXILIARY, 0.4, LOSSES, [["bce", 1.0]]).sem_seg_head
    labels = make_inputs((64, 96))[0]["sem_seg"][None]
    logits = torch.randn(1, 6, 4, 6)
    output = PixelOutput(torch.randn(1, hierarchy.num_nodes, 16, 24), None, logits)
    found = head.losses(output, labels)["loss_auxiliary"]
    nodes = torch.zeros(1, hierarchy.num_nodes, 64, 96)
    nodes[:, :6] = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    leaves = torch.where(labels < 6, labels, VOID)
    expected = marginal_ce_loss(nodes, leaves, hierarchy, level_weights=[0, 0, 1])
    torch.testing.assert_close(found, 0.4 * expected)


def test_an_all_void_batch_is_zero_with_a_gradient(make_model, make_inputs):
    model = make_model(AUXILIARY, 0.4).train()
    inputs = make_inputs((64, 96))
    inputs[0]["sem_seg"].fill_(VOID)
    losses = model(inputs)
    assert len(losses) == 3
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_triplet_weight_follows_the_trainers_iteration(make_model, scene):
    model = make_model(
        *(f"{TRIPLET}SCHEDULE_ITERS", 100),
        *("MODEL.HIERA_SEG.EMBEDDING.IN_FEATURE", "res2"),
    ).train()

    def triplet() -> float:
        torch.manual_seed(0)
        return model([scene])["loss_tree_triplet"].item()

    final = triplet()
    assert final > 0
    weights = {}
    for iteration in (0, 50, 100):
        with EventStorage(iteration):
            weights[iteration] = triplet()
    # 1/4 (1 + cos(pi (t - T) / T)) at t = 0 and T / 2, then 1/2. Sampling follows the iteration.
    assert weights[0] == 0
    assert weights[50] == pytest.approx(final / 2, rel=0.2)
    assert weights[100] == pytest.approx(final, rel=0.2)


def test_seed_iteration_and_process_decide_what_losses_sample(make_model, monkeypatch):
    def triplet(seed: int, iteration: int, rank: int = 0) -> float:
        model = make_model(f"{TRIPLET}SAMPLES_PER_CLASS", 1, "SEED", seed).train()
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        torch.manual_seed(seed + iteration + rank)  # what was drawn before plays no part
        labels = torch.arange(6).view(1, 2, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
        output = model.sem_seg_head.layers(model.backbone(torch.rand(1, 3, 64, 96)))
        torch.manual_seed(5)
        output = output._replace(embeddings=torch.randn(1, 16, 16, 24))
        with EventStorage(iteration):
            losses = model.sem_seg_head.losses(output, labels)
        return losses["loss_tree_triplet"].item()

    first = triplet(3, 200_000)
    torch.rand(1)
    assert triplet(3, 200_000) == first
    assert len({first, triplet(4, 200_000), triplet(3, 200_001), triplet(3, 200_000, 1)}) == 4


LOSS_SETS = {
    "bce": [["bce", 1.0]],
    "tree_min": [["tree_min", 1.0]],
    "focal_tree_min": [["focal_tree_min", 1.0]],
    "level_ce": [["level_ce", 1.0]],
    "flat": [["marginal_ce", 1.0]],
    "hssn": [["focal_tree_min", 1.0], ["tree_triplet", 1.0]],
    "all": [["tree_min", 1.0], ["level_ce", 1.0], ["tree_triplet", 1.0], ["marginal_ce", 1.0]],
}


@pytest.mark.parametrize("name", LOSS_SETS)
def test_every_loss_set_learns_one_image(make_model, scene, hierarchy, name):
    model = make_model(
        *(LOSSES, LOSS_SETS[name]),
        *("MODEL.HIERA_SEG.MARGINAL_CE.LEVEL_WEIGHTS", [0.0, 0.0, 1.0]),
        *(AUXILIARY, 0.4 if name == "all" else 0.0),
        *("MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", 0.0),
    ).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    history = []
    for _ in range(30):
        losses = model([scene])
        history.append({key: loss.item() for key, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for key in history[0]:
        assert history[-1][key] < 0.5 * history[0][key], (key, history[0], history[-1])
    for module in model.modules():  # the statistics of 30 steps lag behind the weights
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model([scene])
        result = model.eval()([scene])[0]
    for level, labels in enumerate(result["hiera_labels"]):
        truth = torch.from_numpy(hierarchy.level_ancestor[level].copy())[scene["sem_seg"]]
        assert (labels == truth).float().mean() > 0.8


def test_options_of_the_config_reach_the_losses(make_cfg, make_model):
    model = make_model(
        *("SOLVER.MAX_ITER", 321),
        *(f"{TRIPLET}MARGIN_EPS", 0.2),
        *(f"{TRIPLET}SAMPLES_PER_CLASS", 9),
        *("MODEL.HIERA_SEG.FOCAL_TREE_MIN.GAMMA", 3.0),
    )
    focal, triplet = model.sem_seg_head.loss.losses
    assert triplet.schedule_iters == 321
    assert triplet.options["margin"] == -1
    assert (triplet.options["margin_eps"], triplet.options["samples_per_class"]) == (0.2, 9)
    assert "gamma=3" in repr(focal) and "'sum'" in repr(focal)
    other = make_model(f"{TRIPLET}MARGIN", 0.0, f"{TRIPLET}SCHEDULE_ITERS", 5)
    _, triplet = other.sem_seg_head.loss.losses
    assert (triplet.options["margin"], triplet.schedule_iters) == (0.0, 5)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bce", "'bce'"),
        (["bce"], "'bce'"),
        ([["bce"]], r"\['bce'\]"),
        ([["bce", 1.0, 2.0]], r"\['bce', 1.0, 2.0\]"),
        ([[1.0, "bce"]], r"\[1.0, 'bce'\]"),
        ([["bce", 1.0], ["bce", 2.0]], "'bce' twice"),
    ],
)
def test_malformed_losses_name_key_and_value(make_cfg, value, found):
    cfg = make_cfg()
    cfg.MODEL.HIERA_SEG.LOSSES = value
    with pytest.raises(ValueError, match=rf"MODEL\.HIERA_SEG\.LOSSES.*{found}"):
        build_model(cfg)


def test_a_loss_of_weight_0_does_not_decide_what_logits_mean(make_cfg, node_counts):
    losses = (LOSSES, [["focal_tree_min", 0.0], ["level_ce", 1.0]])
    keys = (f"{ADJUSTMENT}.TAU", 0.5, f"{ADJUSTMENT}.FILE", node_counts[0])
    model = build_model(make_cfg(*losses, *keys))
    assert model.decode_options.variant == model.sem_seg_head.decode_as == "level_softmax"
    assert model.sem_seg_head.loss.names == ("focal_tree_min", "level_ce")


def test_an_option_that_a_loss_refuses_names_its_key(make_cfg):
    cfg = make_cfg(f"{TRIPLET}SAMPLES_PER_CLASS", 0)
    with pytest.raises(ValueError, match=r"MODEL\.HIERA_SEG\.TREE_TRIPLET: .*1 or more, not 0"):
        build_model(cfg)


@pytest.mark.parametrize(
    "key", ["MODEL.HIERA_SEG.EMBEDDING.IN_FEATURE", "MODEL.HIERA_SEG.AUXILIARY.IN_FEATURE"]
)
def test_a_feature_that_is_not_there_names_its_key(make_cfg, key):
    cfg = make_cfg(AUXILIARY, 1.0, key, "p5")
    with pytest.raises(ConfigError, match=rf"{key} names p5; the backbone returns res2"):
        build_model(cfg)


def test_trees_of_more_than_255_nodes_move_the_void_value(make_cfg, tmp_path):
    tree = tmp_path / "wide.yaml"
    tree.write_text("tree: [" + ", ".join(f"c{i}" for i in range(300)) + "]\n")
    cfg = make_cfg("MODEL.HIERA_SEG.HIERARCHY", str(tree), LOSSES, [["bce", 1.0]])
    head = build_model(cfg).sem_seg_head
    assert head.predictor.out_channels == 300
    assert head.ignore_value == 65535


ADJUSTMENT = "MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT"


@pytest.fixture
def node_counts(hierarchy, tmp_path):
    """A file of counts, and the counts."""
    pixels = {path: 10**i for i, path in enumerate(hierarchy.paths[: hierarchy.num_leaves])}
    (tmp_path / "counted").mkdir()
    file = tmp_path / "counted" / "counts.json"
    write_node_counts(file, pixels)
    inner = hierarchy.num_nodes - hierarchy.num_leaves
    return str(file), np.array([*pixels.values(), *[0] * inner])


@pytest.mark.parametrize("loss", ["marginal_ce", "level_ce"])
def test_a_sibling_adjustment_changes_eval_alone(
    make_model, make_inputs, hierarchy, node_counts, loss, monkeypatch
):
    file, pixels = node_counts
    if loss == "level_ce":
        monkeypatch.syspath_prepend(Path(file).parents[1])
        file = f"package://{Path(file).parent.name}/counts.json"
    options = (LOSSES, [[loss, 1.0]])
    plain = make_model(*options)
    model = make_model(*options, f"{ADJUSTMENT}.TAU", 0.5, f"{ADJUSTMENT}.FILE", file)
    inputs = make_inputs((64, 96))
    with EventStorage():
        torch.manual_seed(0)
        expected = plain.train()(inputs)
        torch.manual_seed(0)
        assert model.train()(inputs) == expected
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.nn.init.normal_(plain.sem_seg_head.predictor.weight)
    model.load_state_dict(plain.state_dict())
    images = [inputs[0]["image"]]
    with torch.no_grad():
        (before,), (after,) = (both.eval().node_views(images) for both in (plain, model))
    adjust = SiblingAdjustment(hierarchy, pixels, 0.5, by_level=loss == "level_ce")
    torch.testing.assert_close(after.output.values, adjust(before.output.values))
    assert not torch.allclose(after.output.values, before.output.values)


def test_a_sibling_adjustment_needs_a_softmax_and_counts(make_cfg, node_counts):
    file, _ = node_counts
    tau, key = (f"{ADJUSTMENT}.TAU", 0.5), f"{ADJUSTMENT}.FILE"
    with pytest.raises(ConfigError, match=r"TAU is 0\.5, but .*DECODE is 'path_sum'.*marginal"):
        build_model(make_cfg(LOSSES, [["tree_min", 1.0]], *tau, key, file))
    softmax = (LOSSES, [["marginal_ce", 1.0]])
    with pytest.raises(ConfigError, match=r"FILE is '': .*count_nodes"):
        build_model(make_cfg(*softmax, *tau))
    with pytest.raises(ConfigError, match=r"SIBLING_ADJUSTMENT.*none\.json cannot be read"):
        build_model(make_cfg(*softmax, *tau, key, "none.json"))
    with pytest.raises(ConfigError, match=r"SIBLING_ADJUSTMENT.*tau is -1\.0"):
        build_model(make_cfg(*softmax, f"{ADJUSTMENT}.TAU", -1.0, key, file))
    with pytest.raises(ConfigError, match=r"DECODE is 'path_sum'"):
        head = ("MODEL.SEM_SEG_HEAD.NAME", "HieraMaskFormerHead", LOSSES, [])
        build_model(make_cfg(*head, *tau, key, file))


@pytest.mark.parametrize("norm", ["", "FrozenBN"])
def test_an_embedding_without_context_is_computed_where_the_loss_reads_it(
    make_model, make_inputs, norm
):
    model = make_model(
        *(LOSSES, [["tree_triplet", 1.0], ["bce", 1.0]]),
        *("MODEL.HIERA_SEG.EMBEDDING.IN_FEATURE", "res2"),
        *("MODEL.HIERA_SEG.EMBEDDING.NORM", norm),
        *(f"{TRIPLET}SAMPLES_PER_CLASS", 4),
    ).train()
    head = model.sem_seg_head
    labels = make_inputs((64, 96))[0]["sem_seg"][None]
    features = model.backbone(torch.randn(1, 3, 64, 96))
    output = head.layers(features)
    seen = []
    head.embedding_head.project.register_forward_hook(lambda *call: seen.append(call[2].shape))

    def triplet(output: PixelOutput):
        torch.manual_seed(0)
        loss = head.losses(output, labels)["loss_tree_triplet"]
        weights = [*head.embedding_head.parameters()]
        return loss, *torch.autograd.grad(loss, [features["res2"], *weights], retain_graph=True)

    torch.nn.init.normal_(head.embedding_head.project.weight)

    found = triplet(output)
    assert len(seen) == 1 and seen[0][2] <= 6 * 4 and seen[0][3] == 1
    expected = triplet(output._replace(embeddings=output.embeddings.dense()))
    assert seen[1][2:] == (16, 24) and found[0] > 0
    torch.testing.assert_close(found, expected)


def test_a_norm_over_pixels_needs_the_whole_embedding(make_model):
    for norm in ("BN", "GN"):
        keys = (f"MODEL.HIERA_SEG.EMBEDDING.{key}" for key in ("NORM", "HIDDEN_CHANNELS"))
        options = [x for pair in zip(keys, (norm, 32), strict=True) for x in pair]
        head = make_model(*options).train().sem_seg_head
        features = {"res2": torch.randn(2, 16, 16, 24), "res5": torch.randn(2, 32, 2, 3)}
        assert head.layers(features).embeddings.shape == (2, 16, 2, 3)


def test_a_loss_of_ones_own_gets_a_tensor_of_embeddings(hierarchy):
    class Own(LossTerm):
        needs, normalizer, decoding = "embeddings", None, None

        def __init__(self, hierarchy, *, ignore_label):
            super().__init__()

        def forward(self, embeddings, labels, *, valid_count=None):
            return embeddings.sum()

    HIERA_LOSSES.register(Own, name="test_own_embeddings")
    try:
        loss = HierarchicalLoss(hierarchy, [("test_own_embeddings", 1.0, {})])
        embeddings = PixelEmbeddings(torch.ones(1, 3, 2, 2), torch.nn.Identity())
        labels = torch.zeros(1, 2, 2, dtype=torch.long)
        assert loss(None, labels, embeddings)["loss_test_own_embeddings"] == 12
    finally:
        HIERA_LOSSES._obj_map.pop("test_own_embeddings")
