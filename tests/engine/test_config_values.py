"""Values of a config that can not work: one line that names the key, and no traceback."""

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY

from hiera_seg.cli import load_config
from hiera_seg.data import HieraDatasetMapper
from hiera_seg.diagnostics import dry_run
from hiera_seg.engine import HieraTrainer
from hiera_seg.errors import ConfigError
from hiera_seg.inference import HieraPredictor
from hiera_seg.inference.predictions import load_predictor

HIERA = "MODEL.HIERA_SEG."
WRONG = [
    (["SOLVER.MAX_ITER", 0], "SOLVER.MAX_ITER is 0: 1 or more"),
    (["SOLVER.CHECKPOINT_PERIOD", 0], "SOLVER.CHECKPOINT_PERIOD is 0: 1 or more"),
    (["SOLVER.BASE_LR", -0.1], "SOLVER.BASE_LR is -0.1: 0 or more"),
    (["SOLVER.BASE_LR", float("nan")], "SOLVER.BASE_LR is nan: 0 or more"),
    (["SOLVER.MOMENTUM", -0.9], "SOLVER.MOMENTUM is -0.9: 0 or more"),
    (["MODEL.SEM_SEG_HEAD.CONVS_DIM", 0], "MODEL.SEM_SEG_HEAD.CONVS_DIM is 0: 1 or more"),
    ([f"{HIERA}EMBEDDING.DIM", -1], f"{HIERA}EMBEDDING.DIM is -1: 1 or more"),
    ([f"{HIERA}AUXILIARY.WEIGHT", -0.4], f"{HIERA}AUXILIARY.WEIGHT is -0.4: 0 or more"),
    ([f"{HIERA}TREE_TRIPLET.SCHEDULE_ITERS", -5], "TREE_TRIPLET.SCHEDULE_ITERS is -5: 0 or more"),
    ([f"{HIERA}HIERARCHY", "nope"], f"{HIERA}HIERARCHY: 'nope' is neither a built-in hierarchy"),
    (["MODEL.PIXEL_STD", [0.0, 1.0, 1.0]], r"MODEL.PIXEL_STD \[0.0, 1.0, 1.0\]: .* above 0"),
    (["MODEL.PIXEL_MEAN", [1.0, 1.0]], r"PIXEL_MEAN is \[1.0, 1.0\] and .*for each channel"),
    (["SOLVER.WARMUP_METHOD", "foo"], "WARMUP_METHOD is 'foo': choose \"constant\", \"linear\""),
    (["SOLVER.REFERENCE_WORLD_SIZE", 3], "REFERENCE_WORLD_SIZE is 3: .*IMS_PER_BATCH, 2, was"),
    (["SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0.0], "optimizer .*: Nesterov .* momentum"),
    (["DATALOADER.NUM_WORKERS", -1], "DATALOADER.NUM_WORKERS is -1: 0 or more"),
    (["MODEL.RESNETS.DEPTH", 19], "built: MODEL.RESNETS.DEPTH is 19: choose 18, 34, 50"),
    (["MODEL.RESNETS.NORM", "Foo"], "MODEL.RESNETS.NORM is 'Foo': choose \"BN\""),
    (["MODEL.SEM_SEG_HEAD.NORM", "Foo"], "MODEL.SEM_SEG_HEAD.NORM is 'Foo': choose \"BN\""),
    (["MODEL.RESNETS.RES5_DILATION", 2], "model cannot be built: .*RES5_DILATION"),
    (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.FUSE_TYPE", "foo",
      "MODEL.FPN.IN_FEATURES", ["res4", "res5"], "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p4", "p5"]],
     r"model cannot be built: AssertionError at `assert fuse_type in .*fpn\.py:\d+"),
    (["MODEL.BACKBONE.NAME", "nope"], "names a part that is not there: .*'nope'"),
    (["TEST.AUG.ENABLED", True, "TEST.AUG.CROP_SIZE", [5]], r"TEST.AUG.CROP_SIZE is \[5\]"),
    (["INPUT.CROP.SIZE", [192]], r"INPUT.CROP.SIZE is \[192\]: .*two whole numbers of pixels"),
    (["INPUT.CROP.SIZE", [0, 192]], r"INPUT.CROP.SIZE is \[0, 192\]: .*two whole numbers"),
    (["INPUT.CROP.TYPE", "relative"], r"CROP.SIZE is \[32, 32\]: .*shares above 0 and at most 1"),
    (["INPUT.CROP.TYPE", "foo"], "INPUT.CROP.TYPE is 'foo': choose one of \"absolute\""),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "foo"], "MIN_SIZE_TRAIN_SAMPLING is 'foo': choose"),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], r"MIN_SIZE_TRAIN is \(36, 40, 48\): .*two numb"),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (96, 48)],
     r"MIN_SIZE_TRAIN is \(96, 48\): .*the smaller one first"),
    (["INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [64, 32]],
     r"CROP.SIZE is \[64, 32\]: .*the smallest and the largest side"),
    (["INPUT.MIN_SIZE_TRAIN", ()], r"INPUT.MIN_SIZE_TRAIN is \(\): one size or more"),
    (["INPUT.RANDOM_FLIP", "both"], "RANDOM_FLIP is 'both': choose .* \"none\", \"horizontal\""),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:50])
def test_a_value_that_can_not_work_is_named_before_training(cfg, options, message):
    cfg.merge_from_list(options)
    for build in (HieraTrainer, dry_run):
        with pytest.raises(ConfigError, match=message) as caught:
            build(cfg)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("build", [HieraPredictor, load_predictor, HieraTrainer.evaluate])
def test_what_predicts_names_it_too(cfg, build):
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.WEIGHTS = "Foo", "trained.pth"
    with pytest.raises(ConfigError, match="MODEL.RESNETS.NORM is 'Foo'") as caught:
        build(cfg)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_mapper_mirrors_only_when_it_is_told_to(cfg):
    cfg.INPUT.RANDOM_FLIP = "sometimes"
    with pytest.raises(ConfigError, match="INPUT.RANDOM_FLIP is 'sometimes'"):
        HieraDatasetMapper(cfg, True)
    for value in ("none", "horizontal", "vertical"):
        cfg.INPUT.RANDOM_FLIP = value
        HieraDatasetMapper(cfg, True)


def test_a_device_that_torch_does_not_know():
    with pytest.raises(ConfigError, match="MODEL.DEVICE is 'gpu': choose \"cuda\""):
        load_config("", ["MODEL.DEVICE", "gpu"])


@pytest.mark.parametrize("error", [KeyError("Foo"), AssertionError(), ValueError("of mine")])
def test_errors_of_a_users_own_part_stay_what_they_are(cfg, error):
    @SEM_SEG_HEADS_REGISTRY.register()
    class MyBrokenHead(torch.nn.Module):
        def __init__(self, cfg, shapes):
            raise error

    cfg.MODEL.SEM_SEG_HEAD.NAME = "MyBrokenHead"
    cfg.MODEL.RESNETS.NORM = "BN"
    try:
        with pytest.raises(type(error)) as caught:
            HieraTrainer.build_model(cfg)
        assert caught.value is error
    finally:
        del SEM_SEG_HEADS_REGISTRY._obj_map["MyBrokenHead"]
    assert "build_resnet_backbone" in BACKBONE_REGISTRY
