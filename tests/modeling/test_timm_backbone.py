"""Models of timm as backbones: shapes, sizes, weights from files, and what they refuse."""

import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.modeling import TimmBackbone

KEY = "MODEL.HIERA_SEG.TIMM."
SWIN = "swin_tiny_patch4_window7_224"


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason="needs timm: pip install timm")


@pytest.fixture
def make_backbone(make_cfg, timm):
    """A function: model and further keys of MODEL.HIERA_SEG.TIMM -> the backbone."""

    def make(name: str, **keys) -> TimmBackbone:
        options = {"NAME": name, "PRETRAINED": False, **keys}
        pairs = [item for key, value in options.items() for item in (KEY + key, value)]
        torch.manual_seed(0)
        return build_backbone(
            make_cfg("MODEL.BACKBONE.NAME", "build_hiera_timm_backbone", *pairs)
        ).eval()

    return make


def random_image(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


MODELS = {
    "test_resnet": [32, 48, 192, 96],
    "resnet18d": [64, 128, 256, 512],
    "hrnet_w18_small": [16, 32, 64, 128],
    "test_convnext": [24, 32, 48, 64],
    SWIN: [96, 192, 384, 768],
    "test_efficientnet": [24, 32, 48, 64],
    "pvt_v2_b0": [32, 64, 160, 256],
}


@pytest.mark.parametrize("name", MODELS)
def test_strides_and_channels_are_those_of_the_features(make_backbone, name):
    backbone = make_backbone(name)
    shapes = backbone.output_shape()
    assert list(shapes) == ["res2", "res3", "res4", "res5"]
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    assert [shape.channels for shape in shapes.values()] == MODELS[name]
    assert backbone.size_divisibility == 32
    for height, width in [(64, 96), (32, 160)]:  # any multiple of 32, whatever timm's own size
        with torch.no_grad():
            features = backbone(random_image(height, width, batch=2))
        for key, shape in shapes.items():
            expected = (2, shape.channels, height // shape.stride, width // shape.stride)
            assert features[key].shape == expected
            assert features[key].is_contiguous()


@pytest.mark.parametrize(
    ("name", "keys"), [("test_resnet", {}), (SWIN, {}), ("test_convnext", {"OUT_NORM": "LN"})]
)
def test_features_lie_as_the_images_do(make_backbone, name, keys):
    backbone = make_backbone(name, **keys).to(memory_format=torch.channels_last)
    image = random_image(64, 96, batch=2)
    with torch.no_grad():
        expected = backbone(image)
        found = backbone(image.to(memory_format=torch.channels_last))
    for key, feature in found.items():
        assert expected[key].is_contiguous()
        assert feature.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(feature, expected[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "stride", "strides"),
    [
        ("test_resnet", 16, [4, 8, 16, 16]),
        ("test_resnet", 8, [4, 8, 8, 8]),
        ("test_convnext", 16, [4, 8, 16, 16]),
        ("test_efficientnet", 8, [4, 8, 8, 8]),
    ],
)
def test_output_strides(make_backbone, name, stride, strides):
    backbone = make_backbone(name, OUTPUT_STRIDE=stride)
    assert backbone.size_divisibility == stride
    assert [shape.stride for shape in backbone.output_shape().values()] == strides
    with torch.no_grad():
        features = backbone(random_image(48, 80))
    assert [48 // value.shape[2] for value in features.values()] == strides
    assert [80 // value.shape[3] for value in features.values()] == strides


def test_features_are_timms_own(make_backbone, timm):
    backbone = make_backbone("test_convnext", OUT_FEATURES=["res5", "res3"])
    assert list(backbone.output_shape()) == ["res3", "res5"]
    model = timm.create_model("test_convnext", features_only=True, pretrained=False).eval()
    model.load_state_dict(backbone.body.state_dict())
    image = random_image(64, 64)
    with torch.no_grad():
        expected = model(image)
        features = backbone(image)
    torch.testing.assert_close(features["res3"], expected[1])
    torch.testing.assert_close(features["res5"], expected[3])


def test_swin_gives_what_it_gives_at_its_own_size(make_backbone, timm):
    """Its classifier of 224x224 has windows of the whole map in the last stage: equal before."""
    backbone = make_backbone(SWIN, OUT_FEATURES=["res2", "res3", "res4"])
    model = timm.create_model(SWIN, features_only=True, pretrained=False, out_indices=(0, 1, 2))
    model.load_state_dict(backbone.body.state_dict())
    image = random_image(224, 224)
    with torch.no_grad():
        expected = model.eval()(image)
        features = backbone(image)
    for found, channels_last in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(found, channels_last.permute(0, 3, 1, 2))


def test_swin_does_not_see_the_size_of_its_training(make_backbone):
    """Far from a border nothing tells how large an image is."""
    backbone = make_backbone(SWIN, OUT_FEATURES=["res2"])
    image = random_image(56, 112)
    wider = torch.cat([image, random_image(56, 112)], dim=3)
    with torch.no_grad():
        narrow, wide = backbone(image)["res2"], backbone(wider)["res2"]
    torch.testing.assert_close(wide[..., :20], narrow[..., :20], rtol=1e-4, atol=1e-4)


def test_dilated_resnet_d_has_no_pool_without_stride(make_backbone):
    backbone = make_backbone("resnet18d", OUTPUT_STRIDE=8)
    pools = {
        name: type(module).__name__
        for name, module in backbone.body.named_modules()
        if name.endswith("downsample.0")
    }
    assert pools == {
        "layer2.0.downsample.0": "AvgPool2d",
        "layer3.0.downsample.0": "Identity",
        "layer4.0.downsample.0": "Identity",
    }


def test_out_norm_normalises_every_pixel(make_backbone):
    for name in (SWIN, "test_convnext"):  # channels last, channels first
        backbone = make_backbone(name, OUT_NORM="LN", OUT_FEATURES=["res3", "res4"])
        with torch.no_grad():
            features = backbone(random_image(64, 96))
        shapes = backbone.output_shape()
        for key, feature in features.items():
            assert feature.shape[1] == shapes[key].channels
            assert feature.mean(dim=1).abs().max() < 1e-5
            assert (feature.std(dim=1, unbiased=False) - 1).abs().max() < 1e-2


def test_drop_path_reaches_the_model(make_backbone):
    drops = [
        module.drop_prob
        for module in make_backbone("test_convnext", DROP_PATH_RATE=0.3).modules()
        if type(module).__name__ == "DropPath"
    ]
    assert max(drops) == pytest.approx(0.3)


def test_images_of_other_channels(make_cfg, timm):
    keys = ("MODEL.BACKBONE.NAME", "build_hiera_timm_backbone", f"{KEY}NAME", "test_resnet")
    backbone = build_backbone(make_cfg(*keys, f"{KEY}PRETRAINED", False), ShapeSpec(channels=4))
    assert backbone(torch.randn(2, 4, 32, 32))["res5"].shape == (2, 96, 1, 1)


class TestWeights:
    @pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "hrnet_w18_small"])
    def test_a_classifiers_file_is_loaded_whole(self, make_backbone, timm, tmp_path, name):
        classifier = timm.create_model(name, pretrained=False)
        for value in classifier.state_dict().values():
            if value.is_floating_point():
                value.normal_()
        path = str(tmp_path / "classifier.pth")
        torch.save({"state_dict": classifier.state_dict()}, path)
        backbone = make_backbone(name, CHECKPOINT=path)
        given = {
            (tuple(v.shape), float(v.double().sum())) for v in classifier.state_dict().values()
        }
        for key, value in backbone.body.state_dict().items():
            assert (tuple(value.shape), float(value.double().sum())) in given, key

    def test_the_first_convolution_is_adapted_to_other_channels(self, timm, tmp_path):
        classifier = timm.create_model("test_resnet", pretrained=False)
        path = str(tmp_path / "classifier.pth")
        torch.save(classifier.state_dict(), path)
        backbone = TimmBackbone(name="test_resnet", in_channels=5, checkpoint=path)
        given, found = classifier.conv1[0].weight, backbone.body.conv1[0].weight
        # timm repeats the weights of the colours, and keeps the sum for an image of equal channels.
        torch.testing.assert_close(found, given[:, [0, 1, 2, 0, 1]] * 3 / 5)

    def test_names_that_timm_translates(self, make_backbone, timm, tmp_path):
        """Swin's authors number the layers between stages otherwise than timm does."""
        classifier = timm.create_model(SWIN, pretrained=False)
        theirs = {}
        for name, value in classifier.state_dict().items():
            for stage in (1, 2, 3):
                name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample_")
            theirs[name.replace("downsample_", "downsample").replace("head.fc.", "head.")] = value
        path = str(tmp_path / "swin.pth")
        torch.save({"model": theirs}, path)
        backbone = make_backbone(SWIN, CHECKPOINT=path)
        found = backbone.body.state_dict()["layers_1.downsample.reduction.weight"]
        assert torch.equal(found, classifier.state_dict()["layers.1.downsample.reduction.weight"])

    def test_a_file_of_another_model_is_refused(self, make_backbone, timm, tmp_path):
        path = str(tmp_path / "other.pth")
        torch.save(timm.create_model("test_convnext", pretrained=False).state_dict(), path)
        with pytest.raises(CheckpointError, match=rf"TIMM\.CHECKPOINT: {path} .*missing"):
            make_backbone("test_resnet", CHECKPOINT=path)

    def test_a_tensor_of_another_shape_is_named(self, make_backbone, timm, tmp_path):
        state = timm.create_model("test_resnet", pretrained=False).state_dict()
        state["layer1.0.conv1.weight"] = torch.zeros(1)
        path = str(tmp_path / "damaged.pth")
        torch.save(state, path)
        with pytest.raises(
            CheckpointError, match=r"layer1\.0\.conv1\.weight is \(1,\) in the file"
        ):
            make_backbone("test_resnet", CHECKPOINT=path)

    def test_a_missing_file_is_named(self, make_backbone):
        with pytest.raises(CheckpointError, match=r"TIMM\.CHECKPOINT: /no/such\.pth: no such"):
            make_backbone("test_resnet", CHECKPOINT="/no/such.pth")

    def test_a_failed_download_names_the_file_and_the_key(self, make_backbone, timm, monkeypatch):
        create = timm.create_model

        def offline(name, *, pretrained, **options):
            if pretrained:
                raise ConnectionError("no route\nto the host")
            return create(name, pretrained=False, **options)

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(
            CheckpointError,
            match=r"model\.safetensors of https://huggingface\.co/timm/test_resnet\.r160_in1k .*"
            r"\(ConnectionError: no route\); set MODEL\.HIERA_SEG\.TIMM\.CHECKPOINT to a local",
        ):
            make_backbone("test_resnet", PRETRAINED=True)

    def test_nothing_is_fetched_where_the_whole_network_has_weights(self, make_cfg, timm):
        cfg = make_cfg(
            *("MODEL.BACKBONE.NAME", "build_hiera_timm_backbone", "MODEL.WEIGHTS", "trained.pth"),
            *(f"{KEY}NAME", "test_resnet", f"{KEY}CHECKPOINT", "gone.pth"),
        )
        assert isinstance(build_backbone(cfg), TimmBackbone)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("resnet5d", {}, r"TIMM\.NAME is 'resnet5d', .* nearest: .*'resnet50d'"),
        ("", {}, r"TIMM\.NAME is '', which timm .* does not have"),
        ("test_vit", {}, r"'test_vit', .*; expected \[\(24, 24\), \(12, 12\)"),
        *(
            (name, {}, rf"'{name}'.* \[\(2\d, 2\d\), .*; expected \[\(24, 24\), \(12, 12\)")
            for name in ("inception_v3", "inception_v4", "inception_resnet_v2", "legacy_xception")
        ),
        ("test_maxvit", {}, r"'test_maxvit', .* 96x96 .* window"),
        (SWIN, {"OUTPUT_STRIDE": 16}, r"swin_tiny.*stride.* 16"),
        ("hrnet_w18_small", {"OUTPUT_STRIDE": 8}, r"timm cannot build hrnet"),
        ("test_resnet", {"OUTPUT_STRIDE": 4}, r"TIMM.* test_resnet .*'output_stride': 4"),
        ("test_resnet", {"OUT_FEATURES": ["res6"]}, r"OUT_FEATURES is \['res6'\]; .* res2, res3"),
        ("test_resnet", {"OUT_FEATURES": []}, r"OUT_FEATURES is \[\]"),
    ],
)
def test_bad_keys_are_named_with_what_is_allowed(make_backbone, name, keys, message):
    with pytest.raises(ConfigError, match=message):
        make_backbone(name, **keys)


def test_without_timm_the_message_says_how_to_install_it(make_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # makes the import fail
    with pytest.raises(ConfigError, match=r"needs timm, .*: pip install timm"):
        build_backbone(make_cfg("MODEL.BACKBONE.NAME", "build_hiera_timm_backbone"))


def test_batch_norms_are_synchronised_on_request_only(timm):
    plain = TimmBackbone(name="test_efficientnet")
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in plain.modules())
    synchronised = TimmBackbone(name="test_efficientnet", synchronize_norms=True)
    assert not any(
        isinstance(m, nn.BatchNorm2d) and not isinstance(m, nn.SyncBatchNorm)
        for m in synchronised.modules()
    )
    assert list(plain.state_dict()) == list(synchronised.state_dict())
