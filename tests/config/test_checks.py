"""Test that every rule of hiera_seg.config.RULES refuses a value, and names key and value."""

import pickle

import pytest

from hiera_seg.cli import load_config
from hiera_seg.config import RULES, check_config
from hiera_seg.config.checks import value_of
from hiera_seg.diagnostics import dry_run
from hiera_seg.engine import HieraTrainer
from hiera_seg.errors import ConfigError
from hiera_seg.inference import HieraPredictor
from hiera_seg.inference.predictions import load_predictor
from hiera_seg.modeling.build import build_model
from tests.helpers import new_config

HIERA = "MODEL.HIERA_SEG."
WITH_TEST_SET = ["DATASETS.TEST", ("x",)]
ABSOLUTE_CROP = ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute"]
ABSOLUTE_CROP += ["INPUT.CROP.SIZE", [9, 9]]
# Other keys, the key at fault, its value.
WRONG = [
    ([], "MODEL.META_ARCHITECTURE", "HieraSegmenter"),
    ([], "MODEL.BACKBONE.NAME", "nope"),
    ([], "MODEL.SEM_SEG_HEAD.NAME", "nope"),
    ([], f"{HIERA}TREE_TRIPLET.SCHEDULE_ITERS", -5),
    ([], f"{HIERA}EMBEDDING.HIDDEN_CHANNELS", -1),
    ([], f"{HIERA}EMBEDDING.DIM", 0),
    ([], f"{HIERA}EMBEDDING.NORM", "bn"),
    ([], f"{HIERA}AUXILIARY.WEIGHT", -0.4),
    ([], f"{HIERA}AUXILIARY.CHANNELS", 0),
    ([], f"{HIERA}AUXILIARY.NORM", "bn"),
    ([], f"{HIERA}TIMM.NORM", "GN"),
    ([], f"{HIERA}TIMM.OUT_NORM", "BN"),
    ([], f"{HIERA}OCR.REGIONS", "level"),
    ([], f"{HIERA}OCR.WEIGHT", float("nan")),
    ([], f"{HIERA}OCR.KEY_CHANNELS", 0),
    *(([], f"{HIERA}MASK_FORMER.{key}", 0) for key in (
        "NUM_QUERIES", "HIDDEN_DIM", "NUM_HEADS", "DIM_FEEDFORWARD", "DECODER_LAYERS",
        "ENCODER_LAYERS", "ENCODER_DIM_FEEDFORWARD", "NUM_POINTS")),
    *(([], f"{HIERA}MASK_FORMER.{key}_WEIGHT", -0.5) for key in (
        "CLASS", "MASK", "DICE", "NO_OBJECT")),
    ([], f"{HIERA}MASK_FORMER.OVERSAMPLE_RATIO", 0.5),
    ([], "SOLVER.BACKBONE_MULTIPLIER", -0.1),
    ([], "SOLVER.ACCUMULATION_STEPS", 0),
    ([], "SOLVER.IMS_PER_BATCH", 0),
    (["SOLVER.ACCUMULATION_STEPS", 4], "SOLVER.IMS_PER_BATCH", 6),
    ([], "SOLVER.EMA.DECAY", 1.0),
    ([], "SOLVER.EMA.DECAY", -0.1),
    (["TEST.PRECISE_BN.ENABLED", True], "SOLVER.EMA.ENABLED", True),
    ([], "LOGGERS", ["tensorboardX"]),
    ([], "NUM_THREADS", -1),
    ([], "DATALOADER.ON_ERROR", "ignore"),
    (ABSOLUTE_CROP, "INPUT.CROP.SIZE", [0.9, 0.9]),
    (ABSOLUTE_CROP, "INPUT.CROP.SIZE", [192]),
    ([], "MODEL.PIXEL_MEAN", [0.0, 0.0]),
    ([], "INPUT.DISPLAY_BANDS", [0, 3, 1]),
    ([], "INPUT.DISPLAY_BANDS", [0, "red", 1]),
    ([], "TEST.VALIDATION_LOSS", True),
    ([], "TEST.BEST_CHECKPOINT.MODE", "best"),
    ([*WITH_TEST_SET, "TEST.VALIDATION_LOSS", True, "TEST.BEST_CHECKPOINT.MODE", "min",
      "TEST.BEST_CHECKPOINT.METRIC", "validation_loss_bce"], "TEST.BEST_CHECKPOINT.MODE", "max"),
    ([*WITH_TEST_SET, "TEST.EVAL_PERIOD", 9, "TEST.EARLY_STOPPING.MODE", "min",
      "TEST.EARLY_STOPPING.METRIC", "x/sem_seg/tree_distance"], "TEST.EARLY_STOPPING.MODE", "max"),
    ([], "TEST.BEST_CHECKPOINT.METRIC", "sem_seg/mIoU"),
    (WITH_TEST_SET, "TEST.BEST_CHECKPOINT.METRIC", "validation_loss"),
    ([], "TEST.EARLY_STOPPING.MODE", "least"),
    ([], "TEST.EARLY_STOPPING.PATIENCE", 0),
    (["TEST.EVAL_PERIOD", 5], "TEST.EARLY_STOPPING.METRIC", "sem_seg/mIoU"),
    (WITH_TEST_SET, "TEST.EARLY_STOPPING.METRIC", "sem_seg/mIoU"),
    ([*WITH_TEST_SET, "TEST.EVAL_PERIOD", 9, "SOLVER.MAX_ITER", 9],
     "TEST.EARLY_STOPPING.METRIC", "sem_seg/mIoU"),
]  # fmt: skip


defaults = pytest.fixture(new_config)


@pytest.mark.parametrize(("others", "key", "value"), WRONG, ids=str)
def test_a_wrong_value_is_named_with_its_key(defaults, others, key, value):
    defaults.merge_from_list(others)
    check_config(defaults)
    defaults.merge_from_list([key, value])
    with pytest.raises(ConfigError) as caught:
        check_config(defaults)
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key} is {value!r}; ")
    assert "\n" not in str(caught.value)


def test_every_rule_is_of_a_key_and_tested(defaults):
    assert {key for _, key, _ in WRONG} == set(RULES)
    for key in RULES:
        value_of(defaults, key)


def test_only_keys_below_a_node_are_checked(defaults):
    defaults.SOLVER.EMA.DECAY = 2.0
    check_config(defaults, "MODEL.")
    with pytest.raises(ConfigError, match=r"SOLVER\.EMA\.DECAY"):
        check_config(defaults, "SOLVER.")


def test_an_error_keeps_key_and_value_through_pickle():
    error = pickle.loads(pickle.dumps(ConfigError("a.b is 3", key="a.b", value=3)))
    assert (str(error), error.key, error.value) == ("a.b is 3", "a.b", 3)


def test_several_processes_divide_the_batch(defaults, monkeypatch):
    defaults.SOLVER.ACCUMULATION_STEPS = 2
    check_config(defaults)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH is 16; .*\b6\b"):
        check_config(defaults)


def test_an_unknown_name_comes_with_the_nearest(defaults):
    defaults.MODEL.META_ARCHITECTURE = "HieraSegmenter"
    with pytest.raises(ConfigError, match="'HieraSegmentor'"):
        check_config(defaults)


@pytest.mark.parametrize("build", [HieraTrainer, dry_run])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{HIERA}EMBEDDING.DIM", -1),
        (f"{HIERA}HIERARCHY", "nope"),
        ("MODEL.BACKBONE.NAME", "nope"),
        ("INPUT.CROP.SIZE", [0, 192]),
        ("TEST.EARLY_STOPPING.PATIENCE", 0),
    ],
)
def test_training_and_dry_run_check_the_config_first(cfg, build, key, value):
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError) as caught:
        build(cfg)
    assert key in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "build", [build_model, HieraPredictor, load_predictor, HieraTrainer.evaluate]
)
def test_everything_that_builds_a_model_checks_its_keys(cfg, build):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS = "nope", "trained.pth"
    with pytest.raises(ConfigError) as caught:
        build(cfg)
    assert (caught.value.key, caught.value.value) == ("MODEL.BACKBONE.NAME", "nope")


def test_a_device_that_torch_does_not_know():
    with pytest.raises(ConfigError) as caught:
        load_config("", ["MODEL.DEVICE", "gpu"])
    assert (caught.value.key, caught.value.value) == ("MODEL.DEVICE", "gpu")
