"""LOGGERS: what Weights & Biases and MLflow get of a run, and of one that is resumed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.utils.events import EventStorage

from hiera_seg.data import HieraDatasetMapper
from hiera_seg.engine import HieraTrainer
from hiera_seg.engine.trackers import TRACKERS
from hiera_seg.errors import ConfigError

from .processes import train as train_once

# Clients that write every call, as a line of json, to calls.jsonl beside them.
RECORD = """
import json, pathlib
def record(*call):
    with open(pathlib.Path(__file__).with_name("calls.jsonl"), "a") as file:
        file.write(json.dumps(call) + "\\n")
"""
WANDB = f"""{RECORD}
class Image:
    def __init__(self, array):
        self.text = f"image {{array.dtype}} {{array.shape[-1]}}"
class Config:
    def update(self, values, allow_val_change):
        record("config", values)
class Run:
    config = Config()
    def __init__(self, id):
        self.id = id
    def define_metric(self, name, step_metric=None):
        record("define", name, step_metric)
    def log(self, values):
        record("log", {{k: getattr(x, "text", x) for k, x in values.items()}})
    def finish(self, exit_code):
        record("finish", exit_code)
def init(**options):
    record("init", {{k: x if x is None else str(x) for k, x in options.items()}})
    return Run(options["id"] or "run-1")
"""
MLFLOW = f"""{RECORD}
from types import SimpleNamespace as Space
def set_experiment(name):
    record("experiment", name)
def start_run(run_id=None, run_name=None):
    record("init", {{"id": run_id, "name": run_name}})
    return Space(info=Space(run_id=run_id or "run-1"))
def log_params(values):
    assert len(values) <= 100
    record("config", {{k: str(x) for k, x in values.items()}})
def log_text(text, name):
    record("text", name, text)
def log_metrics(values, step):
    assert len(values) <= 1000
    record("log", {{**values, "iteration": step}})
def log_image(image, key, step, synchronous):
    record("log", {{key: f"image {{image.dtype}} {{image.shape[-1]}}", "iteration": step}})
def end_run(status):
    record("finish", int(status == "FAILED"))
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Install both stand-in clients; return a function that gives the calls of one."""
    for name, code in (("wandb", WANDB), ("mlflow", MLFLOW)):
        package = tmp_path / "clients" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "clients")
    yield lambda name: [
        json.loads(line)
        for line in (tmp_path / "clients" / name / "calls.jsonl").read_text().splitlines()
    ]
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


@pytest.fixture
def train(cfg):
    def run(iterations: int, *loggers: str, resume: bool = False) -> HieraTrainer:
        cfg.LOGGERS = list(loggers)
        cfg.SOLVER.MAX_ITER = iterations
        cfg.TEST.EVAL_PERIOD = 2
        cfg.VIS_PERIOD = 2
        return train_once(cfg.clone(), resume=resume)

    return run


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.parametrize("beside", [[], ["tensorboard"]])
def test_a_tracker_gets_metrics_images_and_config_and_a_resumed_run(
    calls, train, cfg, name, beside
):
    trainer = train(2, name, *beside)
    assert trainer.storage._vis_data == []
    first = calls(name)
    train(4, name, *beside, resume=True)
    second = calls(name)[len(first) :]

    starts = [call[1] for call in first + second if call[0] == "init"]
    assert [start["id"] for start in starts] == [None, "run-1"]
    logged = [call[1] for call in first if call[0] == "log"]
    metrics = next(entry for entry in logged if "sem_seg/mIoU_group" in entry)
    assert {"sem_seg/mIoU_class", "sem_seg/IoU-group-vehicle"} <= metrics.keys()
    assert any("total_loss" in entry for entry in logged)
    images = {key: x for entry in logged for key, x in entry.items() if str(x).startswith("image")}
    assert set(images.values()) == {"image uint8 3"}
    assert sum(key.startswith("batch/") for key in images) == 1
    assert sum(key.startswith(cfg.DATASETS.TEST[0]) for key in images) == 2
    later = [call[1]["iteration"] for call in second if call[0] == "log"]
    assert min(later) >= 2 and max(later) == 4
    assert first[-1] == second[-1] == ["finish", 0]
    if name == "wandb":
        config = next(call[1] for call in second if call[0] == "config")
        assert config["SOLVER"]["MAX_ITER"] == 4
        assert ["define", "*", "iteration"] in second
    else:
        params = {k: v for call in first if call[0] == "config" for k, v in call[1].items()}
        assert params["SOLVER.MAX_ITER"] == "2" and "MODEL.HIERA_SEG.TREE_TRIPLET.MARGIN" in params
        assert not [call for call in second if call[0] in ("config", "experiment")]
        assert yaml.safe_load(second[1][2])["SOLVER"]["MAX_ITER"] == 4


def test_a_run_from_the_start_is_a_new_one_of_the_tracker(calls, train):
    train(1, "wandb")
    train(1, "wandb")
    assert [call[1]["id"] for call in calls("wandb") if call[0] == "init"] == [None, None]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_training_that_fails_is_a_failed_run(calls, train, monkeypatch, name):
    def fail(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(HieraDatasetMapper, "__call__", fail)
    with pytest.raises(ZeroDivisionError):
        train(2, name)
    assert calls(name)[-1] == ["finish", 1]


def test_a_tracker_gets_bytes_and_one_that_does_not_answer_ends_nothing(cfg, tmp_path, caplog):
    seen = []

    class Offline(TRACKERS["wandb"]):
        def _start(self, run_id):
            return "id"

        def _log_image(self, name, image, iteration):
            seen.append(image)

        def _log_metrics(self, metrics, iteration):
            raise ConnectionError("no route to host")

    cfg.OUTPUT_DIR = str(tmp_path)
    tracker = Offline(cfg)
    tracker.open(resume=False)
    with EventStorage(0) as storage:
        storage.put_image("x", torch.full((3, 4, 5), 0.2))
        tracker.write()
        for storage.iter in range(2):
            storage.put_scalar("loss", 1.0)
            tracker.write()
    assert seen[0].dtype == np.uint8 and seen[0].shape == (4, 5, 3) and (seen[0] == 51).all()
    assert caplog.text.count("no route to host") == 1


def test_a_missing_client_is_an_error_before_training(cfg, monkeypatch):
    monkeypatch.setattr("hiera_seg.config.checks.is_installed", lambda name: False)
    cfg.LOGGERS = ["mlflow"]
    with pytest.raises(ConfigError, match="LOGGERS.*pip install mlflow"):
        HieraTrainer(cfg)


def test_a_tracker_that_refuses_to_start_names_the_file_of_its_run(calls, train, cfg, monkeypatch):
    train(1, "mlflow")
    import mlflow

    def refuse(run_id):
        raise RuntimeError(f"run {run_id} was deleted")

    monkeypatch.setattr(mlflow, "start_run", refuse)
    named = rf"LOGGERS.*run-1 was deleted.*{cfg.OUTPUT_DIR}/mlflow_r"
    with pytest.raises(ConfigError, match=named):
        train(2, "mlflow", resume=True)


def test_the_real_wandb_offline(train, monkeypatch, cfg):
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(2, "wandb")
    train(4, "wandb", resume=True)
    folder = Path(cfg.OUTPUT_DIR)
    run_id = (folder / "wandb_run_id").read_text()
    runs = list((folder / "wandb").glob("offline-run-*"))
    assert runs and all(run.name.endswith(run_id) for run in runs)
    assert list((folder / "wandb").glob("offline-run-*/files/media/images/**/*.png"))


def test_the_real_mlflow_in_a_folder(train, tmp_path, monkeypatch, cfg):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
    train(2, "mlflow")
    train(4, "mlflow", resume=True)
    client = mlflow.MlflowClient()
    run = client.get_run((Path(cfg.OUTPUT_DIR) / "mlflow_run_id").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.params["SOLVER.MAX_ITER"] == "2"
    steps = [x.step for x in client.get_metric_history(run.info.run_id, "sem_seg/mIoU_group")]
    assert min(steps) <= 2 and max(steps) == 4
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "images"} <= names
