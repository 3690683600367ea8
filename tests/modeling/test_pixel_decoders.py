import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3PlusHead

from hiera_seg.errors import ConfigError
from hiera_seg.modeling import HIERA_PIXEL_DECODERS, PixelFeatures, build_pixel_decoder

SHAPES = {
    "res2": ShapeSpec(channels=16, stride=4),
    "res3": ShapeSpec(channels=24, stride=8),
    "res5": ShapeSpec(channels=32, stride=32),
}
HEAD = "MODEL.SEM_SEG_HEAD."
DECODER = "MODEL.HIERA_SEG.PIXEL_DECODER"
SEP_ASPP = [DECODER, "sep_aspp"]


def features(height: int, width: int, names=SHAPES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(
            (2, SHAPES[name].channels, -(-height // stride), -(-width // stride)),
            generator=generator,
        )
        for name, stride in ((name, SHAPES[name].stride) for name in names)
    }


@pytest.mark.parametrize("name", ["deeplab_v3_plus", "fpn", "sep_aspp", "ocr"])
@pytest.mark.parametrize("size", [(64, 96), (45, 70), (32, 33)])
def test_the_seam_of_pixel_decoders(make_cfg, name, size):
    decoder = build_pixel_decoder(make_cfg(DECODER, name), SHAPES).eval()
    given = features(*size)
    found = decoder.forward_features(given)
    pixels, encoder_features, scales = found  # in the order of Mask2Former
    assert (decoder.out_channels, decoder.stride) == (32, 4)
    assert decoder.in_features == ["res2", "res5"]
    assert pixels.shape == (2, 32, -(-size[0] // 4), -(-size[1] // 4))
    assert isinstance(found, PixelFeatures) and encoder_features is scales[0]
    assert [scale.shape[1] for scale in scales] == decoder.multi_scale_channels == [32, 16]
    assert scales[0] is given["res5"]


@pytest.mark.parametrize("head", ["HieraPixelHead", "HieraMaskFormerHead"])
def test_heads_take_the_plain_triple_of_mask2formers_decoders(make_model, make_inputs, head):
    """Its FPN decoder returns None as the encoder's features."""
    options = [f"{HEAD}NAME", head]
    if head == "HieraMaskFormerHead":
        options += [
            "MODEL.HIERA_SEG.LOSSES",
            [],
            "MODEL.HIERA_SEG.MASK_FORMER.PIXEL_DECODER",
            "fpn",
        ]
    model = make_model(*options).eval()
    inputs = make_inputs((64, 96))
    expected = model(inputs)[0]["sem_seg"]
    decoder = model.sem_seg_head.pixel_decoder
    ours = decoder.forward_features
    decoder.forward_features = lambda features: (ours(features)[0], None, ours(features)[2])
    assert torch.equal(model(inputs)[0]["sem_seg"], expected)


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


def test_sep_aspp_computes_what_the_release_describes(make_cfg):
    """Written out in plain operations, from the names of the decoder's tensors."""
    cfg = make_cfg(DECODER, "sep_aspp", f"{HEAD}ASPP_DILATIONS", [2, 3])
    decoder = build_pixel_decoder(cfg, SHAPES)
    for name, value in decoder.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(std=0.3)
    state = decoder.eval().state_dict()
    relu, cat = torch.nn.functional.relu, torch.cat

    def conv(x, name, **options):
        x = torch.nn.functional.conv2d(x, state[f"{name}.weight"], **options)
        norm = [state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var")]
        affine = [state[f"{name}.norm.{key}"] for key in ("weight", "bias")]
        return relu(torch.nn.functional.batch_norm(x, *norm, *affine))

    def separable(x, name, dilation=1):
        options = {"padding": dilation, "dilation": dilation, "groups": x.shape[1]}
        return conv(conv(x, f"{name}.depthwise", **options), f"{name}.pointwise")

    def resize(x, size):
        return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)

    given = features(96, 160)
    coarse, fine = given["res5"], given["res2"]
    pooled = resize(conv(coarse.mean((2, 3), keepdim=True), "pool"), coarse.shape[2:])
    branches = [pooled, conv(coarse, "aspp.0")]
    branches += [separable(coarse, "aspp.1", 2), separable(coarse, "aspp.2", 3)]
    x = resize(conv(cat(branches, 1), "join", padding=1), fine.shape[2:])
    x = separable(separable(cat([x, conv(fine, "project")], 1), "fuse.0"), "fuse.1")
    torch.testing.assert_close(decoder.forward_features(given)[0], x)


def test_sep_aspp_trains_with_one_image_by_running_statistics_of_the_pooled_norm(make_cfg):
    decoder = build_pixel_decoder(make_cfg(DECODER, "sep_aspp"), SHAPES)
    one = {name: value[:1] for name, value in features(64, 96).items()}
    decoder.pool.norm.running_mean.fill_(0.25)
    decoder.train().forward_features(one)[0].sum().backward()
    assert (decoder.pool.norm.running_mean == 0.25).all()
    assert decoder.pool.weight.grad.isfinite().all()
    decoder.forward_features(features(64, 96))
    assert not (decoder.pool.norm.running_mean == 0.25).any()


def test_fpn_computes_what_detectron2_does(make_cfg):
    names = ["res2", "res3", "res5"]
    cfg = make_cfg(DECODER, "fpn", f"{HEAD}IN_FEATURES", names)
    decoder = build_pixel_decoder(cfg, SHAPES).eval()
    stock = SemSegFPNHead(SHAPES, num_classes=1, conv_dims=32, common_stride=4, norm="BN").eval()
    decoder.head.load_state_dict(
        {k: v for k, v in stock.state_dict().items() if not k.startswith("predictor.")}
    )
    given = features(64, 96)
    expected = stock.predictor(decoder.forward_features(given)[0])
    torch.testing.assert_close(stock.layers(given), expected)


def test_fpn_decodes_finer_than_its_features(make_cfg):
    cfg = make_cfg(DECODER, "fpn", f"{HEAD}COMMON_STRIDE", 2)
    decoder = build_pixel_decoder(cfg, SHAPES)
    assert decoder.stride == 2
    assert decoder.forward_features(features(64, 96))[0].shape == (2, 32, 32, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [f"{HEAD}IN_FEATURES", ["res2", "p7"]],
            r"MODEL\.SEM_SEG_HEAD\.IN_FEATURES names p7; the backbone returns "
            r"res2 \(stride 4\), res3 \(stride 8\), res5 \(stride 32\)",
        ),
        ([f"{HEAD}IN_FEATURES", []], r"IN_FEATURES names no feature"),
        ([f"{HEAD}PROJECT_CHANNELS", [16, 16]], r"PROJECT_CHANNELS is \[16, 16\]; set 1 numbers"),
        ([f"{HEAD}ASPP_DILATIONS", [1, 2]], r"'deeplab_v3_plus', .* 3 dilations, got 2"),
        ([f"{HEAD}COMMON_STRIDE", 8], r"COMMON_STRIDE is 8; .* which is 4$"),
        ([f"{HEAD}COMMON_STRIDE", 2], r"COMMON_STRIDE is 2; .* which is 4$"),
        ([f"{HEAD}NORM", "GN"], r"'deeplab_v3_plus', .*MODEL\.SEM_SEG_HEAD: .*num_groups.* BN"),
        ([DECODER, "msdeform"], r"_DECODER is 'msdeform'; choose .*deeplab_v3_plus, fpn"),
        (
            [*SEP_ASPP, f"{HEAD}IN_FEATURES", list(SHAPES)],
            r"'sep_aspp', .*IN_FEATURES is \['res2', 'r",
        ),
        ([*SEP_ASPP, f"{HEAD}PROJECT_CHANNELS", []], r"'sep_aspp', .*values"),
        ([DECODER, "fpn", f"{HEAD}COMMON_STRIDE", 16], r"COMMON_STRIDE is 16; .* is 4 or less"),
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
    build_pixel_decoder(make_cfg(DECODER, "hiera_test_decoder"), SHAPES)
    assert built == [SHAPES]
