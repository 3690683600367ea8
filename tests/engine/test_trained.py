"""Weights to judge and to predict with: the average of a run, and none that are untrained."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY

from hiera_seg.config import CheckpointError, ConfigError
from hiera_seg.engine import HieraCheckpointer, HieraTrainer
from hiera_seg.engine.predictions import load_predictor
from hiera_seg.inference import HieraPredictor


def test_an_average_that_does_not_fit_is_named(cfg, tmp_path):
    model = HieraTrainer.build_model(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "other.pth")
    torch.save({"model": model.state_dict(), "ema": {"x": torch.ones(1)}}, cfg.MODEL.WEIGHTS)
    cfg.SOLVER.EMA.ENABLED = True
    message = r'averaged weights \("ema"\) in .*other\.pth do not fit .*SOLVER.EMA.ENABLED False'
    for load in (HieraTrainer.evaluate, load_predictor, HieraPredictor):
        with pytest.raises(CheckpointError, match=message):
            load(cfg)


def test_an_evaluation_of_nothing_is_refused(cfg):
    cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match="DATASETS.TEST is empty: name what is to be evaluated"):
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


def test_an_untrained_network_takes_no_place_of_a_run(cfg, tmp_path, caplog):
    summary = Path(cfg.OUTPUT_DIR) / "hiera_metrics.json"
    for _ in range(2):
        assert HieraTrainer.evaluate(cfg)["sem_seg"]
    assert "MODEL.WEIGHTS is empty: what is evaluated is a network as it was drawn" in caplog.text
    with pytest.raises(ConfigError, match="empty, and there is no checkpoint in .*run; set MODEL"):
        HieraTrainer.evaluate(cfg, resume=True)
    summary.write_text("of the run")
    model = HieraTrainer.build_model(cfg)
    HieraCheckpointer(model, cfg.OUTPUT_DIR).save("model_final")
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty; set MODEL.WEIGHTS .* --resume"):
        HieraTrainer.evaluate(cfg)
    backbone = {f"backbone.{key}": x for key, x in model.backbone.state_dict().items()}
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    torch.save({"model": backbone}, cfg.MODEL.WEIGHTS)
    with pytest.raises(CheckpointError, match="no segmentation head .* or add --resume"):
        HieraTrainer.evaluate(cfg)
    assert summary.read_text() == "of the run"
    assert HieraTrainer.evaluate(cfg, resume=True)["sem_seg"]
    assert json.loads(summary.read_text())
