"""Names of HSSN's public release -> ours."""

import json

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

from hiera_seg.checkpoint.convert import convert_checkpoint, convert_mmseg
from hiera_seg.cli import load_config
from hiera_seg.errors import ConfigError
from tests.helpers import CONFIGS, REPOSITORY

NAMES = REPOSITORY / "tests/modeling/golden/hssn_deeplabv3plus_r101_cityscapes.json"

HEAD = "sem_seg_head."
RENAMED = {
    "backbone.stem.0.weight": "backbone.body.conv1.0.weight",
    "backbone.stem.4.running_var": "backbone.body.conv1.4.running_var",
    "backbone.stem.7.num_batches_tracked": "backbone.body.bn1.num_batches_tracked",
    "backbone.layer3.22.conv2.weight": "backbone.body.layer3.22.conv2.weight",
    "backbone.layer3.10.bn3.running_mean": "backbone.body.layer3.10.bn3.running_mean",
    "backbone.layer4.0.downsample.2.bias": "backbone.body.layer4.0.downsample.2.bias",
    "decode_head.conv_seg.bias": f"{HEAD}predictor.bias",
    "decode_head.image_pool.1.bn.weight": f"{HEAD}pixel_decoder.pool.norm.weight",
    "decode_head.aspp_modules.0.conv.weight": f"{HEAD}pixel_decoder.aspp.0.weight",
    "decode_head.aspp_modules.3.depthwise_conv.bn.running_var": (
        f"{HEAD}pixel_decoder.aspp.3.depthwise.norm.running_var"
    ),
    "decode_head.aspp_modules.2.pointwise_conv.conv.weight": (
        f"{HEAD}pixel_decoder.aspp.2.pointwise.weight"
    ),
    "decode_head.bottleneck.conv.weight": f"{HEAD}pixel_decoder.join.weight",
    "decode_head.c1_bottleneck.bn.bias": f"{HEAD}pixel_decoder.project.norm.bias",
    "decode_head.sep_bottleneck.1.pointwise_conv.bn.bias": (
        f"{HEAD}pixel_decoder.fuse.1.pointwise.norm.bias"
    ),
    "decode_head.proj_head.proj.1.weight": f"{HEAD}embedding_head.hidden.norm.weight",
    "decode_head.proj_head.proj.3.bias": f"{HEAD}embedding_head.project.bias",
    "auxiliary_head.convs.0.conv.weight": f"{HEAD}auxiliary_head.conv.weight",
    "auxiliary_head.convs.0.bn.running_mean": f"{HEAD}auxiliary_head.conv.norm.running_mean",
    "auxiliary_head.conv_seg.weight": f"{HEAD}auxiliary_head.predictor.weight",
}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names(prefix):
    tensors = {prefix + name: torch.randn(2) for name in RENAMED}
    converted = convert_mmseg(tensors)
    assert list(converted) == list(RENAMED.values())
    for theirs, ours in RENAMED.items():
        assert converted[ours] is tensors[prefix + theirs]


def test_every_name_of_the_release_is_known():
    shapes = json.loads(NAMES.read_text())
    state = {name: torch.zeros(shape) for name, shape in shapes.items() if len(shape) < 2}
    state |= {name: torch.zeros(1) for name, shape in shapes.items() if len(shape) >= 2}
    state |= {
        "criterion.weight": torch.zeros(1),
        "decode_head.criterion.class_weight": state["decode_head.step"],
    }
    converted = convert_mmseg(state)
    theirs = ("decode_head.", "auxiliary_head.", "criterion.", "backbone.stem", "backbone.layer")
    assert not [name for name in converted if name.startswith(theirs)]
    # All are there but the counter, the two of the criterion, and the bias that the norm takes in
    assert len(converted) == len(state) - 4


def test_the_bias_before_a_norm_moves_into_its_mean():
    torch.manual_seed(0)
    weight, bias, mean, var = torch.randn(4, 3, 1, 1), *torch.randn(2, 4), torch.rand(4) + 0.5
    proj = "decode_head.proj_head.proj."
    state = {f"{proj}0.weight": weight, f"{proj}0.bias": bias, f"{proj}1.running_mean": mean}
    before = {name: value.clone() for name, value in state.items()}
    converted = convert_mmseg(state)
    assert set(converted) == {
        f"{HEAD}embedding_head.hidden.weight",
        f"{HEAD}embedding_head.hidden.norm.running_mean",
    }
    x = torch.randn(2, 3, 5, 5)
    moved = converted[f"{HEAD}embedding_head.hidden.norm.running_mean"]
    expected = F.batch_norm(F.conv2d(x, weight, bias), mean, var)
    torch.testing.assert_close(F.batch_norm(F.conv2d(x, weight), moved, var), expected)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_unknown_names_stay_for_the_report():
    x = torch.zeros(1)
    names = ["backbone.norm1.weight", "decode_head.cls_embedding", "neck.conv.weight"]
    assert list(convert_mmseg(dict.fromkeys(names, x))) == names


class TestTool:
    """tools/convert_checkpoint.py --from mmseg, on a small network."""

    OPTIONS = [
        *("MODEL.HIERA_SEG.HIERARCHY", "cityscapes"),
        *("MODEL.HIERA_SEG.TIMM.NAME", "resnet10t", "MODEL.HIERA_SEG.AUXILIARY.WEIGHT", "0.4"),
        *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16"),
        *("MODEL.HIERA_SEG.EMBEDDING.HIDDEN_CHANNELS", "16", "MODEL.DEVICE", "cpu"),
    ]
    CONFIG = str(CONFIGS / "Base-SepASPP-R101d.yaml")

    @pytest.fixture
    def theirs(self, tmp_path) -> dict[str, torch.Tensor]:
        """release.pth in the test's folder: the release's names, our small network's shapes."""
        pytest.importorskip("timm", reason="needs timm: pip install timm")
        cfg = load_config(self.CONFIG, [*self.OPTIONS, "MODEL.HIERA_SEG.TIMM.PRETRAINED", "False"])
        network = build_model(cfg).state_dict()
        torch.manual_seed(0)
        state = {}
        for name in json.loads(NAMES.read_text()):
            ours = next(iter(convert_mmseg({name: torch.zeros(1)})), None)
            if ours in network:
                state[name] = torch.randn(network[ours].shape).to(network[ours].dtype)
        state["decode_head.proj_head.proj.0.bias"] = torch.randn(16)
        state["decode_head.step"] = torch.zeros(1)
        torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "release.pth")
        return state

    def test_every_tensor_is_loaded_and_nothing_fetched(
        self, theirs, tmp_path, monkeypatch, start_tool
    ):
        monkeypatch.chdir(tmp_path)
        arguments = ["--from", "mmseg", "--config-file", self.CONFIG, "release.pth", "ours.pth"]
        _, printed, _ = start_tool("convert_checkpoint")(*arguments, "--opts", *self.OPTIONS)
        assert "skipped: 0 tensors" in printed
        assert "randomly initialized: 0 tensors" in printed
        written = torch.load("ours.pth")["model"]
        expected = convert_mmseg(theirs)
        assert f"loaded: {len(expected)} tensors" in printed
        assert all(torch.equal(written[name], value) for name, value in expected.items())

    def test_class_names_have_no_use(self, theirs, tmp_path):
        with pytest.raises(ConfigError, match="--classes .*mmseg"):
            convert_checkpoint(tmp_path / "release.pth", "mmseg", nn.Module(), classes="lip")
