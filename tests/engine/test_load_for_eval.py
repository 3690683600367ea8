"""Which weights are evaluated and predicted with: one rule, and none that are untrained."""

import json
import os
from pathlib import Path

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY

from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.engine import HieraTrainer
from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.inference import HieraPredictor
from hiera_seg.inference.predictions import load_predictor
from hiera_seg.inference.weights import find_weights


def test_an_average_that_does_not_fit_is_named(cfg, tmp_path):
    model = HieraTrainer.build_model(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "other.pth")
    torch.save({"model": model.state_dict(), "ema": {"x": torch.ones(1)}}, cfg.MODEL.WEIGHTS)
    cfg.SOLVER.EMA.ENABLED = True
    message = r'other\.pth: .*"ema".*SOLVER\.EMA\.ENABLED False'
    for load in (HieraTrainer.evaluate, load_predictor, HieraPredictor):
        with pytest.raises(CheckpointError, match=message):
            load(cfg)


def test_an_evaluation_of_nothing_is_refused(cfg):
    cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match="DATASETS.TEST is empty"):
        HieraTrainer.evaluate(cfg)


def test_parts_fetch_no_weights_of_their_own_for_a_run_that_has_some(cfg, monkeypatch):
    seen = []
    build = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)

    def build_and_note(cfg, input_shape):
        seen.append(cfg.MODEL.WEIGHTS)
        return build(cfg, input_shape)

    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, cfg.MODEL.BACKBONE.NAME, build_and_note)
    HieraCheckpointer(HieraTrainer.build_model(cfg), cfg.OUTPUT_DIR).save("model_0000009")
    HieraTrainer.evaluate(cfg, resume=True)
    load_predictor(cfg)
    last = str(Path(cfg.OUTPUT_DIR) / "model_0000009.pth")
    assert seen == ["", last, last]


@pytest.mark.parametrize(
    ("weights", "typed", "resume", "has_last", "expected"),
    [
        ("a.pth", True, False, True, "a.pth"),
        ("a.pth", True, True, True, "last"),
        ("a.pth", True, True, False, "a.pth"),
        ("a.pth", False, False, True, "last"),  # a.pth is what the training began from
        ("a.pth", False, False, False, "a.pth"),
        ("", True, False, True, "last"),
        ("", False, True, True, "last"),
        ("", True, False, False, None),
        ("", False, True, False, None),
    ],
)
def test_the_rule(tmp_path, weights, typed, resume, has_last, expected):
    if has_last:
        (tmp_path / "last_checkpoint").write_text("model_final.pth")
        (tmp_path / "model_final.pth").touch()
    options = {"typed": typed, "resume": resume}
    if expected is None:
        with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS is empty.*" + str(tmp_path)):
            find_weights(weights, str(tmp_path), **options)
        return
    found = find_weights(weights, str(tmp_path), **options)
    assert found == (str(tmp_path / "model_final.pth") if expected == "last" else expected)


def test_a_last_checkpoint_that_is_gone_is_named(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(CheckpointError, match=r"last_checkpoint: .*'model_final\.pth'"):
        find_weights("", str(tmp_path))


def test_no_evaluation_of_an_untrained_head(cfg, tmp_path, caplog):
    summary = Path(cfg.OUTPUT_DIR) / "hiera_metrics.json"
    evaluations = (HieraTrainer.evaluate, load_predictor, HieraPredictor)
    for evaluate in evaluations:
        with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS is empty"):
            evaluate(cfg)
    model = HieraTrainer.build_model(cfg)
    backbone = {f"backbone.{key}": x for key, x in model.backbone.state_dict().items()}
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    torch.save({"model": backbone}, cfg.MODEL.WEIGHTS)
    for evaluate in evaluations:
        with pytest.raises(CheckpointError, match=r"backbone\.pth: .*no segmentation head"):
            evaluate(cfg)
    assert not summary.exists() and not os.listdir(cfg.OUTPUT_DIR)

    HieraCheckpointer(model, cfg.OUTPUT_DIR).save("model_final")
    last = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    with caplog.at_level("INFO", logger="hiera_seg"):
        assert HieraTrainer.evaluate(cfg, opts=["SOLVER.MAX_ITER", "1"])["sem_seg"]
    assert last in caplog.text
    assert f"Using the last checkpoint of {cfg.OUTPUT_DIR}" in caplog.text
    assert json.loads(summary.read_text())
    with pytest.raises(CheckpointError, match=r"backbone\.pth: .*no segmentation head"):
        HieraTrainer.evaluate(cfg, opts=["MODEL.WEIGHTS", cfg.MODEL.WEIGHTS])
    cfg.MODEL.WEIGHTS = ""
    assert load_predictor(cfg)[1] == last
