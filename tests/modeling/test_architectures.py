"""What every network passes, whatever its backbone and pixel decoder."""

import copy

import pytest
import torch
from detectron2.utils.analysis import find_unused_parameters

from .test_maskformer_head import LOSSES as QUERY_LOSSES
from .test_maskformer_head import NETWORKS, SMALL

R50 = [
    *("MODEL.RESNETS.DEPTH", 50),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
]
FPN = [
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
    *("MODEL.HIERA_SEG.EMBEDDING.IN_FEATURE", "p5"),
    *("MODEL.HIERA_SEG.AUXILIARY.IN_FEATURE", "p4"),
]
RESNET_FEATURES = ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
AUXILIARY = ["MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4]
TIMM = [
    *("MODEL.BACKBONE.NAME", "build_hiera_timm_backbone"),
    *("MODEL.HIERA_SEG.TIMM.PRETRAINED", False),
]

ARCHITECTURES = {
    "resnet18_deeplab": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.RESNETS.DEPTH", 18),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
        *RESNET_FEATURES,
        *AUXILIARY,
    ],
    "resnet50_deeplab_three_features": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *R50,
        *RESNET_FEATURES,
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5", "res2", "res3"]),
        *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [16, 24]),
        *("MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV", True),
    ],
    "deeplab_resnet101_stride_8": [
        *("MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone"),
        *R50,
        *("MODEL.RESNETS.DEPTH", 101),
        *("MODEL.RESNETS.RES4_DILATION", 2),
        *("MODEL.RESNETS.RES5_DILATION", 4),
        *RESNET_FEATURES,
        *AUXILIARY,
    ],
    "deeplab_resnet50_stride_16_syncbn": [
        *("MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone"),
        *R50,
        *("MODEL.RESNETS.RES5_DILATION", 2),
        *("MODEL.RESNETS.NORM", "SyncBN"),
        *("MODEL.SEM_SEG_HEAD.NORM", "SyncBN"),
        *("MODEL.HIERA_SEG.EMBEDDING.NORM", "SyncBN"),
        *RESNET_FEATURES,
    ],
    "resnet50_fpn": [
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        *R50,
        *FPN,
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn"),
        *("MODEL.SEM_SEG_HEAD.NORM", "GN"),
        *AUXILIARY,
    ],
    "resnet50_fpn_frozen_below": [
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        *R50,
        *FPN,
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn"),
        *("MODEL.BACKBONE.FREEZE_AT", 2),
        *("MODEL.RESNETS.NORM", "FrozenBN"),
        *("MODEL.SEM_SEG_HEAD.NORM", ""),
    ],
    "resnet50_fpn_deeplab": [
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        *R50,
        *FPN,
        *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8, 16, 16]),
    ],
    "regnet_fpn": [
        *("MODEL.BACKBONE.NAME", "build_hiera_test_regnet_fpn_backbone"),
        *FPN,
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn"),
    ],
    "resnet50_sep_aspp": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *R50,
        *RESNET_FEATURES,
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "sep_aspp"),
        *AUXILIARY,
    ],
    "resnet50_ocr_of_leaves": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *R50,
        *RESNET_FEATURES,
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "ocr"),
        *("MODEL.HIERA_SEG.OCR.REGIONS", "leaf"),
        *("MODEL.HIERA_SEG.OCR.KEY_CHANNELS", 16),
        *AUXILIARY,
    ],
    "timm_convnext_deeplab": [
        *TIMM,
        *("MODEL.HIERA_SEG.TIMM.NAME", "test_convnext"),
        *("MODEL.HIERA_SEG.TIMM.OUT_NORM", "LN"),  # of features that are read
        *("MODEL.HIERA_SEG.TIMM.OUT_FEATURES", ["res2", "res4", "res5"]),
        *AUXILIARY,
    ],
    "timm_hrnet_ocr_of_nodes": [
        *TIMM,
        *("MODEL.HIERA_SEG.TIMM.NAME", "hrnet_w18_small"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "ocr"),
        *("MODEL.HIERA_SEG.OCR.KEY_CHANNELS", 16),
    ],
    "timm_hrnet_fpn": [
        *TIMM,
        *("MODEL.HIERA_SEG.TIMM.NAME", "hrnet_w18_small"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn"),
    ],
    **{f"queries_{name}": [*SMALL, *options] for name, options in NETWORKS.items()},
}
PIXEL_LOSSES = {"loss_focal_tree_min", "loss_tree_triplet"}
PREDICTORS = ("predictor.weight", "transformer_decoder.class_predictor.weight")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request, make_model):
    if request.param.startswith("timm_"):
        pytest.importorskip("timm", reason="needs timm: pip install timm")
    return make_model(*ARCHITECTURES[request.param])


@pytest.fixture
def model(built):
    """A network of the architecture, with the same weights in each test."""
    return copy.deepcopy(built)


def assert_same_predictions(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a["sem_seg"].std() > 1e-3  # pixels differ, or this would say nothing
        torch.testing.assert_close(a["sem_seg"], b["sem_seg"], rtol=0, atol=1e-9)
        for key in ("hiera_labels", "hiera_labels_direct"):
            assert len(a[key]) == 3
            assert all(torch.equal(x, y) for x, y in zip(a[key], b[key], strict=True))


def sharpen(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that tell pixels apart, BN statistics that are not trivial, double precision."""
    if hasattr(model.sem_seg_head, "predictor"):
        torch.nn.init.normal_(model.sem_seg_head.predictor.weight, std=1.0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


def assert_every_parameter_is_trained(model: torch.nn.Module, losses: dict) -> None:
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # DDP stops at a parameter without gradient
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


class TestArchitecture:
    def test_one_image_trains_every_parameter(self, model, make_inputs):
        losses = model.train()(make_inputs((64, 96)))
        assert set(losses) == QUERY_LOSSES or PIXEL_LOSSES <= set(losses)
        assert_every_parameter_is_trained(model, losses)
        head = dict(model.sem_seg_head.named_parameters())
        (predictor,) = (value for name, value in head.items() if name in PREDICTORS)
        assert predictor.grad.abs().max() > 0

    def test_mixed_sizes_train_and_inputs_stay(self, model, make_inputs):
        inputs = make_inputs((64, 96), (71, 65), (33, 97))
        before = copy.deepcopy(inputs)
        assert all(loss.isfinite() for loss in model.train()(inputs).values())
        for sample, copied in zip(inputs, before, strict=True):
            assert torch.equal(sample["image"], copied["image"])
            assert torch.equal(sample["sem_seg"], copied["sem_seg"])

    def test_a_batch_of_mixed_odd_sizes_equals_one_by_one(self, model, make_inputs):
        sharpen(model)
        inputs = make_inputs((45, 67), (64, 96), (33, 97), (64, 96))
        inputs[1].update(height=50, width=131)
        del inputs[2]["height"], inputs[2]["width"]
        with torch.no_grad():
            together = model(inputs)
            alone = [model([sample])[0] for sample in inputs]
        assert_same_predictions(together, alone)
        sizes = [tuple(result["sem_seg"].shape) for result in together]
        assert sizes == [(6, 45, 67), (6, 50, 131), (6, 33, 97), (6, 64, 96)]

    def test_saved_weights_give_the_same_predictions(self, model, built, make_inputs, tmp_path):
        sharpen(model)
        torch.save(model.state_dict(), tmp_path / "model.pth")
        other = copy.deepcopy(built).double().eval()
        for parameter in other.parameters():
            torch.nn.init.zeros_(parameter)
        other.load_state_dict(torch.load(tmp_path / "model.pth"), strict=True)
        inputs = make_inputs((64, 96))
        with torch.no_grad():
            assert_same_predictions(other(inputs), model(inputs))

    def test_trains_in_bfloat16_autocast(self, model, make_inputs):
        with torch.autocast("cpu", torch.bfloat16):
            losses = model.train()(make_inputs((64, 96)))
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        assert_every_parameter_is_trained(model, losses)


def test_the_retinanet_backbone_of_detectron2_trains(make_model, make_inputs):
    model = make_model(
        *R50,
        *FPN,
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p3", "p4", "p5"]),
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn"),
    ).train()
    unused = find_unused_parameters(model, make_inputs((64, 96)))
    # RetinaNet's two coarsest levels are made by its FPN whether or not somebody reads them
    assert all(name.startswith("backbone.top_block.") for name in unused)
