"""Networks and losses against Hugging Face transformers' Mask2Former, another implementation.

Built from a config, without a download. Needs the package: ``pip install transformers`` (or the
extra ``compare``).
"""

import re

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn
from torch.nn import functional as F

pytest.importorskip("transformers", reason="transformers is not installed (the extra compare)")

from transformers import Mask2FormerConfig, ResNetConfig  # noqa: E402
from transformers.models.mask2former.modeling_mask2former import (  # noqa: E402
    Mask2FormerForUniversalSegmentation,
)

from hiera_seg import Hierarchy  # noqa: E402
from hiera_seg.losses import QUERY_OPTIONS, QueryLoss  # noqa: E402
from hiera_seg.modeling import (  # noqa: E402
    HieraMaskFormerHead,
    MaskedAttentionDecoder,
    MSDeformAttnDecoder,
)

SEED = 11
TREE = Hierarchy.from_dict({"a": ["b", "c", "d"], "e": {"f": ["g", "h"], "i": None}, "j": None})
LEAVES = 7
CHANNELS = [8, 12, 16, 20]
SHAPES = {
    f"res{i + 2}": ShapeSpec(channels=channels, stride=4 << i)
    for i, channels in enumerate(CHANNELS)
}
POINTS = 30_000

# (pattern of a whole name of theirs, ours); "#" is a number, "*" weight or bias
PIXEL, QUERY = "model.pixel_level_module.decoder.", "model.transformer_module."
RULES = [
    (f"{PIXEL}level_embed", "pixel_decoder.level_embedding"),
    (f"{PIXEL}input_projections.#.#.*", r"pixel_decoder.input_projections.\1.\2.\3"),
    *(
        (f"{PIXEL}encoder.layers.#.{theirs}.*", rf"pixel_decoder.layers.\1.{ours}.\2")
        for theirs, ours in {
            "self_attn.sampling_offsets": "attention.offsets",
            "self_attn.attention_weights": "attention.weights",
            "self_attn.value_proj": "attention.value",
            "self_attn.output_proj": "attention.out",
            "self_attn_layer_norm": "attention_norm",
            "fc1": "expand",
            "fc2": "contract",
            "final_layer_norm": "feedforward_norm",
        }.items()
    ),
    (f"{PIXEL}mask_projection.*", r"pixel_decoder.mask_features.\1"),
    (f"{PIXEL}adapter_1.0.*", r"pixel_decoder.lateral.\1"),
    (f"{PIXEL}adapter_1.1.*", r"pixel_decoder.lateral.norm.\1"),
    (f"{PIXEL}layer_1.0.*", r"pixel_decoder.smooth.\1"),
    (f"{PIXEL}layer_1.1.*", r"pixel_decoder.smooth.norm.\1"),
    (f"{QUERY}queries_embedder.weight", "transformer_decoder.query_positions.weight"),
    (f"{QUERY}queries_features.weight", "transformer_decoder.query_features.weight"),
    (f"{QUERY}level_embed.weight", "transformer_decoder.level_embedding.weight"),
    *(
        (f"{QUERY}decoder.layers.#.{theirs}.*", rf"transformer_decoder.layers.\1.{ours}.\2")
        for theirs, ours in {
            "self_attn.q_proj": "self_attention.query",
            "self_attn.k_proj": "self_attention.key",
            "self_attn.v_proj": "self_attention.value",
            "self_attn.out_proj": "self_attention.out",
            "self_attn_layer_norm": "self_attention.norm",
            "cross_attn.out_proj": "cross_attention.out",
            "cross_attn_layer_norm": "cross_attention.norm",
            "fc1": "expand",
            "fc2": "contract",
            "final_layer_norm": "norm",
        }.items()
    ),
    (f"{QUERY}decoder.layernorm.*", r"transformer_decoder.norm.\1"),
    *(
        (
            f"{QUERY}decoder.mask_predictor.mask_embedder.{i}.0.*",
            rf"transformer_decoder.mask_embedding.{2 * i}.\1",
        )
        for i in range(3)
    ),
    ("class_predictor.*", r"transformer_decoder.class_predictor.\1"),
]


def to_our_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {}
    for name, value in state.items():
        if name.startswith(("model.pixel_level_module.encoder.", "criterion.")):
            continue  # the backbone
        joint = re.fullmatch(
            r"model\.transformer_module\.decoder\.layers\.(\d+)\.cross_attn\.in_proj_(weight|bias)",
            name,
        )
        if joint:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                layer = f"transformer_decoder.layers.{joint[1]}.cross_attention.{part}"
                ours[f"{layer}.{joint[2]}"] = rows
            continue
        for pattern, new in RULES:
            pattern = pattern.replace(".", r"\.").replace("#", r"(\d+)")
            found = re.fullmatch(pattern.replace("*", "(weight|bias)"), name)
            if found:
                ours[found.expand(new)] = value
                break
        else:
            raise AssertionError(f"no rule for {name}")
    return ours


@pytest.fixture(scope="module")
def theirs(reference) -> Mask2FormerForUniversalSegmentation:
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=CHANNELS,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=96,
        encoder_layers=3,
        decoder_layers=6,  # theirs counts the prediction before the first
        num_attention_heads=8,
        dim_feedforward=80,
        num_queries=12,
        num_labels=LEAVES,
        train_num_points=POINTS,
        importance_sample_ratio=0.0,
    )
    network = Mask2FormerForUniversalSegmentation(config).eval()
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(reference.fill(shapes, SEED), strict=False)
    return network


@pytest.fixture(scope="module")
def ours(theirs) -> HieraMaskFormerHead:
    classes = QUERY_OPTIONS["leaf_softmax"](TREE)
    head = HieraMaskFormerHead(
        hierarchy=TREE,
        pixel_decoder=MSDeformAttnDecoder(
            input_shape=SHAPES, conv_dims=64, num_layers=3, num_heads=8, dim_feedforward=96
        ),
        transformer_decoder=MaskedAttentionDecoder(
            in_channels=[64] * 3,
            mask_channels=64,
            num_classes=LEAVES + 1,
            num_queries=12,
            hidden_dim=64,
            num_heads=8,
            dim_feedforward=80,
            num_layers=5,
        ),
        loss=QueryLoss(classes, ignore_label=255),
        ignore_value=255,
    ).eval()
    head.load_state_dict(to_our_names(theirs.state_dict()), strict=True)
    return head


@pytest.fixture(scope="module")
def features() -> dict[str, torch.Tensor]:
    """Of two images of 96x160, sizes that no stride but the coarsest divides alike."""
    generator = torch.Generator().manual_seed(SEED)
    return {
        name: torch.randn(
            2, shape.channels, 96 // shape.stride, 160 // shape.stride, generator=generator
        )
        for name, shape in SHAPES.items()
    }


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_the_pixel_decoder_computes_the_same(theirs, ours, features):
    decoder: nn.Module = theirs.model.pixel_level_module.decoder
    expected = decoder(list(features.values()))
    mask_features, _, multi_scale = ours.pixel_decoder.forward_features(features)
    assert_equal(mask_features, expected.mask_features)
    for found, other in zip(multi_scale, expected.multi_scale_features, strict=True):
        assert_equal(found, other)


@torch.no_grad()
def test_every_layer_of_the_transformer_decoder_predicts_the_same(theirs, ours, features):
    mask_features, _, multi_scale = ours.pixel_decoder.forward_features(features)
    expected = theirs.model.transformer_module(
        multi_scale_features=multi_scale, mask_features=mask_features
    )
    found = ours.transformer_decoder(multi_scale, mask_features, all_layers=True)
    assert len(found) == len(expected.masks_queries_logits) == 6
    for layer, prediction in enumerate(found):
        states = expected.intermediate_hidden_states[layer].transpose(0, 1)
        assert_equal(prediction.mask_logits, expected.masks_queries_logits[layer])
        assert_equal(prediction.class_logits, theirs.class_predictor(states))


def test_losses_agree_up_to_the_points_drawn(theirs):
    """Many uniform points, so that means hardly vary, and no void, which theirs reads."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.randint(LEAVES, (2, 3, 4), generator=generator)
    labels = labels.repeat_interleave(32, 1).repeat_interleave(32, 2)
    classes = torch.randn(2, 12, LEAVES + 1, generator=generator)
    coarse = 3 * torch.randn(2, 12, 6, 8, generator=generator)
    masks = F.interpolate(coarse, size=(24, 32), mode="bilinear", align_corners=False)
    segments = [present.unique() for present in labels]
    torch.manual_seed(0)
    expected = theirs.criterion(
        masks,
        classes,
        [
            (label == present[:, None, None]).float()
            for label, present in zip(labels, segments, strict=True)
        ],
        segments,
    )
    loss = QueryLoss(
        QUERY_OPTIONS["leaf_softmax"](TREE),
        ignore_label=255,
        num_points=POINTS,
        importance_ratio=0.0,
    )
    found = loss([classes], [masks], labels)
    for ours, other in (("class", "cross_entropy"), ("mask", "mask"), ("dice", "dice")):
        weighted = theirs.weight_dict[f"loss_{other}"] * expected[f"loss_{other}"]
        assert found[ours].item() == pytest.approx(weighted.item(), rel=0.02)
