"""Test the reports and images of a training, and that they do not change the training."""

import json
import logging
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from hiera_seg import Hierarchy
from hiera_seg.engine import HieraTrainer
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.report import run as reporting
from hiera_seg.report.run import report_run
from hiera_seg.report.samples import spread_over
from tests.helpers import report_data
from tests.tiny_street import STREET, register

pytest.importorskip("plotly", reason="needs plotly")


@pytest.fixture
def run(cfg, tmp_path):
    """Trains with some options; gives the trainer."""

    def train(name, *options):
        changed = cfg.clone()
        changed.OUTPUT_DIR = str(tmp_path / name)
        (tmp_path / name).mkdir()
        changed.TEST.EVAL_PERIOD = 2
        changed.SOLVER.MAX_ITER = 4
        changed.SOLVER.CHECKPOINT_PERIOD = 100
        changed.merge_from_list(list(options))
        torch.manual_seed(0)
        trainer = HieraTrainer(changed)
        trainer.resume_or_load(resume=False)
        trainer.train()
        return trainer

    return train


def test_training_writes_reports_and_pictures_and_does_not_notice(run, tmp_path, cfg):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = ["TEST.REPORT", True, "TEST.REPORT_IMAGES", 2, "VIS_PERIOD", 3]
    with_all = run("shown", *shown).model.state_dict()
    without = run("plain", "TEST.STRIP_IMAGES", 0).model.state_dict()
    assert all(torch.equal(value, without[key]) for key, value in with_all.items())
    assert not (tmp_path / "plain" / "report.html").exists()

    data = report_data(tmp_path / "shown" / "report.html")
    assert len(data["images"]) == 2 and data["images"][0]["scores"] and data["images"][0]["truth"]
    metrics = json.loads((tmp_path / "shown" / "hiera_metrics.json").read_text())["metrics"]
    newest = {curve["name"]: (curve["x"][-1], curve["y"][-1]) for curve in data["curves"]["miou"]}
    assert newest["class"] == (4, pytest.approx(metrics["mIoU_class"], rel=1e-4))

    events = accumulator.EventAccumulator(str(tmp_path / "shown"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()["images"]
    name = cfg.DATASETS.TEST[0]
    assert sum(tag.startswith("batch/") for tag in tags) == 1
    assert sum(tag.startswith(f"{name}/") for tag in tags) == 2
    strips = [event for tag in tags if tag.startswith(name) for event in events.Images(tag)]
    assert {strip.step for strip in strips} == {1, 4}  # at both evaluations
    assert all(700 < strip.width < 1600 and strip.height > 200 for strip in strips)


def test_a_report_that_can_not_be_made_does_not_end_the_training(run, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise DatasetError("the disk is full")

    monkeypatch.setattr(reporting, "report_run", broken)
    with caplog.at_level(logging.ERROR, logger="hiera_seg"):
        trainer = run("broken", "TEST.REPORT", True)
    assert trainer.iter == 4 and "the disk is full" in caplog.text


def test_a_missing_plotly_is_told_before_training(cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    HieraTrainer(cfg)
    cfg.TEST.REPORT = True
    with pytest.raises(ConfigError, match="pip install plotly"):
        HieraTrainer(cfg)
    with pytest.raises(ConfigError, match="pip install plotly"):
        HieraTrainer.evaluate(cfg)


@pytest.fixture(scope="session")
def street() -> Hierarchy:
    """The tree of the tiny dataset, in place of the one of conftest.py."""
    return STREET


def test_every_test_set_has_its_own_report(cfg, tiny_folder, tmp_path):
    cfg.DATASETS.TEST = (*cfg.DATASETS.TEST, register(tiny_folder, "tiny_street_second"))
    cfg.TEST.REPORT, cfg.TEST.REPORT_IMAGES = True, 1
    HieraTrainer.test(cfg, HieraTrainer.build_model(cfg))
    folder = tmp_path / "run" / "inference"
    datasets = {
        name: report_data(folder / name / "report.html")["dataset"] for name in cfg.DATASETS.TEST
    }
    assert datasets == {name: name for name in cfg.DATASETS.TEST}


def test_a_report_of_files_alone(cfg, tmp_path):
    HieraTrainer.test(cfg, HieraTrainer.build_model(cfg))
    folder = tmp_path / "run"
    path = report_run(cfg, output=tmp_path / "deep" / "numbers.html", notes=["why"])
    data = report_data(path)
    assert data["images"] == [] and data["notes"] == ["why"] and data["curves"]["losses"] == []
    assert data["safeDepth"] is None and data["tree"]["name"] == "street"

    # the tree comes with the numbers: the config may say nothing of it
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    assert report_data(report_run(cfg, output=path))["tree"] == data["tree"]

    np.savez(folder / "confusion_class.npz", matrix=np.zeros((2, 1)), classes=np.array(["x"]))
    with pytest.raises(DatasetError, match="confusion_class.npz has 1 classes"):
        report_run(cfg)
    (folder / "confusion_class.npz").write_bytes(b"torn")
    with pytest.raises(DatasetError, match="confusion_class.npz cannot be read"):
        report_run(cfg)
    (folder / "hiera_metrics.json").write_text("{")
    with pytest.raises(DatasetError, match="hiera_metrics.json, line 1: not valid json"):
        report_run(cfg)
    (folder / "hiera_metrics.json").write_text("[]")
    with pytest.raises(DatasetError, match="no 'metrics'"):
        report_run(cfg)
    (folder / "hiera_metrics.json").unlink()
    with pytest.raises(ConfigError, match="run.*: no evaluation, .*--eval-only"):
        report_run(cfg)


def test_images_are_spread_over_a_dataset(cfg):
    name = cfg.DATASETS.TEST[0]
    records = DatasetCatalog.get(name)
    assert spread_over(name, 2) == {0: records[0], 2: records[2]}
    assert spread_over(name, 99) == dict(enumerate(records)) and spread_over(name, 0) == {}
