"""The pixel decoders for queries and the masked-attention decoder, part by part."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from hiera_seg.errors import ConfigError
from hiera_seg.layers import sine_positions
from hiera_seg.modeling import (
    MaskedAttentionDecoder,
    MSDeformAttnDecoder,
    TopDownFPNDecoder,
    build_pixel_decoder,
)

SHAPES = {
    "res2": ShapeSpec(channels=8, stride=4),
    "res4": ShapeSpec(channels=12, stride=16),
    "res5": ShapeSpec(channels=16, stride=32),
}
HEAD = "MODEL.SEM_SEG_HEAD."
QUERY = "MODEL.HIERA_SEG.MASK_FORMER."


def features(height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    sizes = [
        (2, s.channels, -(-height // s.stride), -(-width // s.stride)) for s in SHAPES.values()
    ]
    return {
        name: torch.randn(x, generator=generator) for name, x in zip(SHAPES, sizes, strict=True)
    }


def pixel_decoder(kind):
    torch.manual_seed(0)
    if kind == "ms_deform_attn":
        return MSDeformAttnDecoder(
            input_shape=SHAPES, conv_dims=32, num_layers=2, num_heads=4, dim_feedforward=48
        )
    return TopDownFPNDecoder(input_shape=SHAPES, conv_dims=32, norm="GN")


def transformer_decoder(**options):
    torch.manual_seed(0)
    sizes = {"num_queries": 5, "hidden_dim": 16, "num_heads": 2, "dim_feedforward": 24}
    return MaskedAttentionDecoder(
        in_channels=[16, 12],
        mask_channels=8,
        num_classes=7,
        **{**sizes, "num_layers": 3, **options},
    )


def maps():
    """Multi-scale maps and mask features of two images."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(16, 2, 3), (12, 4, 6), (8, 16, 24)]
    *multi_scale, mask_features = [torch.randn(2, *x, generator=generator) for x in sizes]
    return multi_scale, mask_features


def test_positions_are_sines_and_cosines_of_row_and_column():
    found = sine_positions(3, 5, 8).view(3, 5, 8)
    for row in range(3):
        for column in range(5):
            angles = torch.tensor([2 * torch.pi * (row + 1) / 3, 2 * torch.pi * (column + 1) / 5])
            for part, angle in enumerate(angles):
                for pair, wavelength in enumerate((1, 10000**0.5)):
                    expected = torch.stack([(angle / wavelength).sin(), (angle / wavelength).cos()])
                    start = 4 * part + 2 * pair
                    torch.testing.assert_close(
                        found[row, column, start : start + 2], expected, rtol=0, atol=1e-5
                    )
    with pytest.raises(ValueError, match="channels is 6"):
        sine_positions(2, 2, 6)


@pytest.mark.parametrize("kind", ["ms_deform_attn", "top_down_fpn"])
class TestPixelDecoder:
    @pytest.mark.parametrize("size", [(64, 96), (71, 65), (33, 130)])
    def test_gives_masks_at_the_finest_stride_and_maps_coarse_to_fine(self, kind, size):
        decoder = pixel_decoder(kind)
        found = features(*size)
        mask_features, encoder_features, multi_scale = decoder.forward_features(found)
        assert encoder_features is multi_scale[0] and decoder.stride == 4
        assert mask_features.shape == (2, decoder.out_channels, *found["res2"].shape[-2:])
        assert [x.shape[1] for x in multi_scale] == decoder.multi_scale_channels == [32, 32]
        assert [x.shape[-2:] for x in multi_scale] == [
            found["res5"].shape[-2:],
            found["res4"].shape[-2:],
        ]

    def test_the_image_is_seen_through_every_feature(self, kind):
        decoder = pixel_decoder(kind)
        expected = decoder.forward_features(features())[0]
        for name in SHAPES:
            changed = features()
            changed[name] = changed[name] + 1
            assert not torch.allclose(decoder.forward_features(changed)[0], expected), name


def test_the_encoder_lets_fine_maps_see_coarse_ones_and_back():
    decoder = pixel_decoder("ms_deform_attn")
    for layer in decoder.layers:
        torch.nn.init.normal_(layer.attention.weights.weight, std=0.1)
    expected = decoder.forward_features(features())[2]
    for name, other in (("res5", 1), ("res4", 0)):
        changed = features()
        changed[name] = torch.randn_like(changed[name])
        found = decoder.forward_features(changed)[2]
        assert (found[other] - expected[other]).abs().mean() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([f"{QUERY}PIXEL_DECODER", "bifpn"], r"MASK_FORMER\.PIXEL_DECODER is 'bifpn'; .*top_down"),
        ([f"{HEAD}CONVS_DIM", 48], r"'ms_deform_attn', .*num_groups"),
        ([f"{QUERY}NUM_HEADS", 5], r"'ms_deform_attn', .*num_heads 5"),
        ([f"{HEAD}COMMON_STRIDE", 8], r"COMMON_STRIDE is 8; .* which is 4"),
    ],
)
def test_bad_keys_are_named_with_what_is_allowed(make_cfg, options, message):
    cfg = make_cfg(*options)
    key = "MODEL.HIERA_SEG.MASK_FORMER.PIXEL_DECODER"
    with pytest.raises(ConfigError, match=message):
        build_pixel_decoder(cfg, SHAPES, cfg.MODEL.HIERA_SEG.MASK_FORMER.PIXEL_DECODER, key)


class TestMaskedAttentionDecoder:
    def test_predicts_classes_and_masks_of_every_query(self):
        decoder = transformer_decoder()
        predictions = decoder(*maps())
        assert len(predictions) == 1
        assert predictions[0].class_logits.shape == (2, 5, 7)
        assert predictions[0].mask_logits.shape == (2, 5, 16, 24)

    def test_all_layers_end_with_what_the_last_one_says(self):
        decoder = transformer_decoder()
        every = decoder(*maps(), all_layers=True)
        assert len(every) == 4
        for found, expected in zip(every[-1], decoder(*maps())[0], strict=True):
            torch.testing.assert_close(found, expected)
        first = decoder.norm(decoder.query_features.weight)
        torch.testing.assert_close(
            every[0].class_logits, decoder.class_predictor(first).expand(2, -1, -1)
        )

    def test_queries_read_only_where_their_mask_is_on(self):
        decoder = transformer_decoder(num_layers=1)
        with torch.no_grad():  # constant embedding: the mask is the first mask feature's sign
            decoder.mask_embedding[-1].weight.zero_()
            decoder.mask_embedding[-1].bias.copy_(torch.eye(8)[0])
        multi_scale, mask_features = maps()
        mask_features[:, 0, :, :12] = 1.0
        mask_features[:, 0, :, 12:] = -1.0
        expected = decoder(multi_scale, mask_features)[0].class_logits
        changed = multi_scale[0].clone()
        changed[..., 2] += 9  # the third column: off
        found = decoder([changed, multi_scale[1]], mask_features)[0].class_logits
        torch.testing.assert_close(found, expected)
        changed[..., 0] += 9  # on
        found = decoder([changed, multi_scale[1]], mask_features)[0].class_logits
        assert not torch.allclose(found, expected)

    def test_a_query_whose_mask_is_off_everywhere_reads_everything(self):
        decoder = transformer_decoder(num_layers=1)
        with torch.no_grad():
            decoder.mask_embedding[-1].weight.zero_()
            decoder.mask_embedding[-1].bias.copy_(torch.eye(8)[0])
        multi_scale, mask_features = maps()
        on, off = mask_features.clone(), mask_features.clone()
        on[:, 0], off[:, 0] = 1.0, -1.0
        expected = decoder(multi_scale, on)[0].class_logits
        found = decoder(multi_scale, off)[0].class_logits
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected)

    def test_masks_of_a_level_are_the_resized_masks(self):
        """The decoder resizes mask features instead, for which it needs less time."""
        decoder = transformer_decoder()
        _, mask_features = maps()
        x = torch.randn(2, 5, 16)
        masks = torch.einsum(
            "bqc,bchw->bqhw", decoder.mask_embedding(decoder.norm(x)), mask_features
        )
        resize = torch.nn.functional.interpolate
        small = {"size": (4, 6), "mode": "bilinear", "align_corners": False}
        expected = resize(masks, **small).flatten(2).sigmoid() >= 0.5
        found = decoder._allowed(x, resize(mask_features, **small))[:, 0]
        assert (found == expected).float().mean() > 0.999

    def test_one_image_is_not_told_what_is_in_another(self):
        decoder = transformer_decoder()
        multi_scale, mask_features = maps()
        both = decoder(multi_scale, mask_features)[0]
        one = decoder([x[1:] for x in multi_scale], mask_features[1:])[0]
        for found, expected in zip(both, one, strict=True):
            torch.testing.assert_close(found[1:], expected, rtol=1e-4, atol=1e-5)
