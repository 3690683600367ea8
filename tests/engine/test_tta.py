"""Evaluation through TEST.AUG: the same trainer, loader and evaluator."""

import pytest
import torch
from detectron2.data import MetadataCatalog

from hiera_seg.engine import HieraTrainer


@pytest.fixture
def evaluate(cfg):
    def run(*options):
        changed = cfg.clone()
        changed.INPUT.MIN_SIZE_TEST = 64
        changed.merge_from_list(list(options))
        return HieraTrainer.evaluate(changed)["sem_seg"]

    return run


@pytest.fixture
def weights(cfg, tmp_path):
    """Random weights whose predictions are not all one class."""
    torch.manual_seed(0)
    model = HieraTrainer.build_model(cfg)
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight, std=3.0)
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)


def test_evaluation_by_test_time_augmentation(evaluate, weights):
    plain = evaluate()
    as_it_is = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (), "TEST.AUG.FLIP", False]
    covering = ["TEST.AUG.CROP_SIZE", [200, 200]]
    assert evaluate(*as_it_is, *covering) == pytest.approx(plain, nan_ok=True)
    sliding = ["TEST.AUG.CROP_SIZE", [32, 48]]
    several = evaluate("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (40, 64), *sliding)
    assert several.keys() == plain.keys()
    assert 0 < several["pACC"] != plain["pACC"]


def test_a_mirrored_view_swaps_the_pairs_of_the_dataset(cfg, evaluate, weights):
    aug = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", ()]
    without = evaluate(*aug)
    MetadataCatalog.get(cfg.DATASETS.TEST[0]).flip_pairs = [("car", "road")]
    assert evaluate(*aug)["pACC"] != without["pACC"]


def test_scores_are_judged_with_and_without_it(cfg, evaluate, weights):
    """Config keys to results: calibration, and the curve over safe depths."""
    test = "MODEL.HIERA_SEG.TEST."
    keys = [f"{test}CONFIDENCE", True, f"{test}GREEDY_PATH", True, f"{test}OUTPUT", "labels"]
    plain, judged = evaluate(), evaluate(*keys)
    added = ["safe_depth_auc", *(f"ECE_{name}" for name in ("group", "class"))]
    assert sorted(judged.keys() - plain.keys()) == sorted(added)
    assert {key: judged[key] for key in plain} == pytest.approx(plain, nan_ok=True)
    augmented = evaluate(*keys, "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (40, 64))
    for key in added:
        assert 0 < judged[key] < 100 and 0 < augmented[key] < 100
        assert judged[key] != augmented[key]
