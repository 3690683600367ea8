"""HieraMaskFormerHead: both options, on both pixel decoders, as a config builds them."""

import copy

import pytest
import torch
from torch.nn import functional as F

from hiera_seg.errors import ConfigError
from hiera_seg.modeling import QueryPrediction

HEAD = "MODEL.SEM_SEG_HEAD."
QUERY = "MODEL.HIERA_SEG.MASK_FORMER."
SMALL = [
    *(f"{HEAD}NAME", "HieraMaskFormerHead"),
    *(f"{HEAD}IN_FEATURES", ["res2", "res4", "res5"]),
    *(f"{HEAD}NORM", "GN"),
    *("MODEL.HIERA_SEG.LOSSES", []),
    *(f"{QUERY}NUM_QUERIES", 8),
    *(f"{QUERY}HIDDEN_DIM", 32),
    *(f"{QUERY}NUM_HEADS", 4),
    *(f"{QUERY}DIM_FEEDFORWARD", 64),
    *(f"{QUERY}DECODER_LAYERS", 2),
    *(f"{QUERY}ENCODER_LAYERS", 1),
    *(f"{QUERY}ENCODER_DIM_FEEDFORWARD", 64),
    *(f"{QUERY}NUM_POINTS", 256),
]
NETWORKS = {
    "leaf_softmax_ms_deform_attn": [],
    "leaf_softmax_top_down_fpn": [f"{QUERY}PIXEL_DECODER", "top_down_fpn"],
    "node_sigmoid_ms_deform_attn": [f"{QUERY}OPTION", "node_sigmoid"],
    "node_sigmoid_fpn": [f"{QUERY}OPTION", "node_sigmoid", f"{QUERY}PIXEL_DECODER", "fpn"],
}
LOSSES = {f"loss_{deep}{name}" for deep in ("", "deep_") for name in ("class", "mask", "dice")}


@pytest.fixture(scope="module", params=NETWORKS)
def built(request, make_model):
    return make_model(*SMALL, *NETWORKS[request.param])


@pytest.fixture
def model(built):
    """A network, with the same weights in each test; test_architectures.py has more of them."""
    return copy.deepcopy(built)


class TestNetwork:
    def test_an_image_of_void_leaves_zeros_with_a_gradient_path(self, model, make_inputs):
        inputs = make_inputs((64, 96))
        inputs[0]["sem_seg"].fill_(255)
        losses = model.train()(inputs)
        assert all(loss == 0 for loss in losses.values())
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.eq(0).all(), name

    def test_autocast_meets_no_weight_without_its_gradient(self, model, make_inputs):
        """Before the end of 2025 torch kept the copy of it for the rest of the forward."""
        recorded = []

        def record(*_):
            recorded.append(torch.is_grad_enabled())

        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.register_forward_pre_hook(record)
        with torch.autocast("cpu", torch.bfloat16):
            model.train()(make_inputs((64, 96)))
        assert len(recorded) > 10 and all(recorded)


@pytest.mark.parametrize("option", ["leaf_softmax", "node_sigmoid"])
def test_learns_a_scene_by_heart(make_model, scene, option):
    model = make_model(*SMALL, f"{QUERY}OPTION", option, f"{QUERY}PIXEL_DECODER", "top_down_fpn")
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    model.train()
    for _ in range(60):
        losses = model([scene])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    result = model.eval()([scene])[0]
    right = result["hiera_labels"][-1] == scene["sem_seg"]
    assert right.float().mean() > 0.9
    direct = result["hiera_labels_direct"][0]
    assert (direct == result["hiera_labels"][0]).float().mean() > 0.9


@pytest.mark.parametrize("option", ["leaf_softmax", "node_sigmoid"])
def test_scores_are_sums_over_queries_at_the_size_of_the_input(make_model, hierarchy, option):
    head = make_model(*SMALL, f"{QUERY}OPTION", option).eval().sem_seg_head
    generator = torch.Generator().manual_seed(0)
    prediction = QueryPrediction(
        torch.randn(2, 11, head.loss.classes.num_logits, generator=generator),
        3 * torch.randn(2, 11, 4, 6, generator=generator),
    )
    masks = F.interpolate(prediction.mask_logits, (16, 24), mode="bilinear").sigmoid()
    nodes = head.loss.classes.node_scores(prediction.class_logits)
    assert nodes.shape == (2, 11, hierarchy.num_nodes)
    expected = sum(nodes[:, q, :, None, None] * masks[:, q, None] for q in range(11))
    found = head.scores(prediction)
    torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.scores(prediction), found, rtol=0, atol=0)


def test_scores_at_the_decoders_stride_are_cheaper_and_nearly_the_same(make_model, make_inputs):
    exact = make_model(*SMALL).eval()
    quick = make_model(*SMALL, f"{QUERY}SCORE_STRIDE", 4).eval()
    inputs = make_inputs((64, 96))
    with torch.no_grad():
        a, b = exact(inputs)[0]["sem_seg"], quick(inputs)[0]["sem_seg"]
    assert not torch.equal(a, b)
    assert (a - b).abs().mean() < 0.02 * a.mean()


def test_images_are_padded_to_the_coarsest_stride(make_model):
    model = make_model(*SMALL)
    assert model.backbone.size_divisibility == 0 and model.size_divisibility == 32


def test_scores_allow_path_sum_and_leaf(make_model):
    assert make_model(*SMALL).decode_options.variant == "path_sum"
    leaf = make_model(*SMALL, "MODEL.HIERA_SEG.TEST.DECODE", "leaf")
    assert leaf.decode_options.variant == "leaf"


def test_without_deep_supervision_the_last_layer_alone_is_trained(make_model, make_inputs):
    model = make_model(*SMALL, f"{QUERY}DEEP_SUPERVISION", False).train()
    losses = model(make_inputs((64, 96)))
    assert set(losses) == {"loss_class", "loss_mask", "loss_dice"}


def test_the_loss_weight_scales_everything(make_model, make_inputs):
    inputs = make_inputs((64, 96))
    losses = []
    for weight in (1.0, 3.0):
        model = make_model(*SMALL, f"{HEAD}LOSS_WEIGHT", weight).train()
        torch.manual_seed(1)  # of the points
        losses.append(model(inputs))
    for name, loss in losses[1].items():
        torch.testing.assert_close(loss, 3 * losses[0][name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.HIERA_SEG.LOSSES", [["bce", 1.0]]], r"LOSSES is .*bce.*set it to \[\]"),
        ([f"{QUERY}OPTION", "softmax"], r"OPTION is 'softmax'; choose one of .*leaf_softmax"),
        (["MODEL.HIERA_SEG.TEST.DECODE", "joint_softmax"], "DECODE is 'joint_softmax': .*path_sum"),
        ([f"{QUERY}NUM_QUERIES", 0], "NUM_QUERIES is 0"),
        (["MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4], "WEIGHT is 0.4"),
        ([f"{QUERY}HIDDEN_DIM", 34], "HIDDEN_DIM is 34; it must be a multiple of 4 and of"),
        ([f"{QUERY}SCORE_STRIDE", 8], "SCORE_STRIDE is 8; choose 1 .exact. to 4"),
    ],
)
def test_bad_keys_are_named_with_what_is_allowed(make_model, options, message):
    with pytest.raises(ConfigError, match=message):
        make_model(*SMALL, *options)


class Scores(torch.nn.Module):
    """Backbone and head in eval, from pixels to node scores: what an export traces."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.sem_seg_head.node_output(self.model.backbone(images)).values


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_of_the_network_serves_other_images(model):
    network = Scores(model.eval())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 96, generator=generator)
    with torch.no_grad():
        traced = torch.jit.trace(network, torch.zeros(1, 3, 64, 96), check_trace=False)
        torch.testing.assert_close(traced(images[:1]), network(images[:1]))
        torch.testing.assert_close(traced(images), network(images))


@torch.no_grad()
def test_a_network_of_bfloat16_scores_nearly_the_same(model):
    network = Scores(model.eval())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    found = network.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.05 * expected.mean()
