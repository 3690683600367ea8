import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3PlusHead

from hiera_seg.config import ConfigError
from hiera_seg.modeling import HIERA_PIXEL_DECODERS, build_pixel_decoder

SHAPES = {
    "res2": ShapeSpec(channels=16, stride=4),
    "res3": ShapeSpec(channels=24, stride=8),
    "res5": ShapeSpec(channels=32, stride=32),
}
HEAD = "MODEL.SEM_SEG_HEAD."


def features(height: int, width: int, names=SHAPES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(
            (2, SHAPES[name].channels, -(-height // stride), -(-width // stride)),
            generator=generator,
        )
        for name, stride in ((name, SHAPES[name].stride) for name in names)
    }


@pytest.mark.parametrize("name", ["deeplab_v3_plus", "fpn"])
@pytest.mark.parametrize("size", [(64, 96), (45, 70), (32, 33)])
def test_the_seam_of_pixel_decoders(make_cfg, name, size):
    decoder = build_pixel_decoder(make_cfg("MODEL.HIERA_SEG.PIXEL_DECODER", name), SHAPES).eval()
    given = features(*size)
    pixels, nothing, scales = decoder.forward_features(given)
    assert (decoder.out_channels, decoder.stride) == (32, 4)
    assert decoder.in_features == ["res2", "res5"]
    assert pixels.shape == (2, 32, -(-size[0] // 4), -(-size[1] // 4))
    assert nothing is None
    assert [scale.shape[1] for scale in scales] == decoder.multi_scale_channels == [32, 16]
    assert scales[0] is given["res5"]


def test_deeplab_computes_what_detectron2_does(make_cfg):
    cfg = make_cfg(f"{HEAD}NUM_CLASSES", 9, f"{HEAD}IGNORE_VALUE", 255)
    stock = DeepLabV3PlusHead(cfg, SHAPES).eval()
    decoder = build_pixel_decoder(cfg, SHAPES).eval()
    weights = {k: v for k, v in stock.state_dict().items() if not k.startswith("predictor.")}
    decoder.head.load_state_dict(weights, strict=True)
    given = features(64, 96)
    expected = torch.nn.functional.interpolate(
        stock.predictor(decoder.forward_features(given)[0]), scale_factor=4, mode="bilinear"
    )
    torch.testing.assert_close(stock(given)[0], expected)


def test_deeplab_pools_globally_whatever_the_crop(make_cfg):
    cfg = make_cfg("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [40, 40])
    decoder = build_pixel_decoder(cfg, SHAPES).train()
    pooling = decoder.head.decoder["res5"]["project_conv"].convs[-1][0]
    assert isinstance(pooling, torch.nn.AdaptiveAvgPool2d)
    assert decoder.forward_features(features(96, 64))[0].isfinite().all()


def test_fpn_computes_what_detectron2_does(make_cfg):
    names = ["res2", "res3", "res5"]
    cfg = make_cfg("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn", f"{HEAD}IN_FEATURES", names)
    decoder = build_pixel_decoder(cfg, SHAPES).eval()
    stock = SemSegFPNHead(SHAPES, num_classes=1, conv_dims=32, common_stride=4, norm="BN").eval()
    decoder.head.load_state_dict(
        {k: v for k, v in stock.state_dict().items() if not k.startswith("predictor.")}
    )
    given = features(64, 96)
    expected = stock.predictor(decoder.forward_features(given)[0])
    torch.testing.assert_close(stock.layers(given), expected)


def test_fpn_decodes_finer_than_its_features(make_cfg):
    cfg = make_cfg("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn", f"{HEAD}COMMON_STRIDE", 2)
    decoder = build_pixel_decoder(cfg, SHAPES)
    assert decoder.stride == 2
    assert decoder.forward_features(features(64, 96))[0].shape == (2, 32, 32, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [f"{HEAD}IN_FEATURES", ["res2", "p7"]],
            r"MODEL\.SEM_SEG_HEAD\.IN_FEATURES names p7; the backbone gives "
            r"res2 \(stride 4\), res3 \(stride 8\), res5 \(stride 32\)",
        ),
        ([f"{HEAD}IN_FEATURES", []], r"IN_FEATURES names no feature"),
        ([f"{HEAD}PROJECT_CHANNELS", [16, 16]], r"PROJECT_CHANNELS is \[16, 16\]; 1 numbers"),
        ([f"{HEAD}ASPP_DILATIONS", [1, 2]], r"ASPP_DILATIONS is \[1, 2\]; three"),
        ([f"{HEAD}COMMON_STRIDE", 8], r"COMMON_STRIDE is 8; .* which is 4"),
        ([f"{HEAD}NORM", "GN"], r"NORM is 'GN', which needs multiples of 32.*\[16, 32, 32\]"),
        (
            ["MODEL.HIERA_SEG.PIXEL_DECODER", "msdeform"],
            r"PIXEL_DECODER is 'msdeform'; choose one of: .*deeplab_v3_plus, fpn",
        ),
        (
            ["MODEL.HIERA_SEG.PIXEL_DECODER", "fpn", f"{HEAD}COMMON_STRIDE", 16],
            r"COMMON_STRIDE is 16; the finest .* has stride 4",
        ),
        (
            ["MODEL.HIERA_SEG.PIXEL_DECODER", "fpn", f"{HEAD}NORM", "GN", f"{HEAD}CONVS_DIM", 20],
            r"NORM is 'GN'.*CONVS_DIM is 20",
        ),
    ],
)
def test_bad_keys_are_named_with_what_is_allowed(make_cfg, options, message):
    with pytest.raises(ConfigError, match=message):
        build_pixel_decoder(make_cfg(*options), SHAPES)


def test_others_can_register_a_pixel_decoder(make_cfg):
    built = []

    def hiera_test_decoder(cfg, input_shape):
        built.append(input_shape)
        return torch.nn.Identity()

    HIERA_PIXEL_DECODERS.register(hiera_test_decoder)
    build_pixel_decoder(make_cfg("MODEL.HIERA_SEG.PIXEL_DECODER", "hiera_test_decoder"), SHAPES)
    assert built == [SHAPES]
