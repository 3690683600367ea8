"""Evaluations during training: what they keep, when they stop it, and what a kill cannot undo."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from hiera_seg.data import HieraDatasetMapper
from hiera_seg.engine import HieraTrainer
from hiera_seg.engine.hooks import BestWeights, EarlyStopping, EvaluationRecord
from hiera_seg.engine.randomness import get_random_state, seed_everything
from hiera_seg.engine.step import plain_model
from hiera_seg.engine.validation import validation_losses
from hiera_seg.errors import ConfigError
from hiera_seg.inference import HieraPredictor
from hiera_seg.inference.predictions import load_predictor

from .processes import in_processes, train, train_in_a_process

EVERYTHING = [
    "SOLVER.EMA.ENABLED", True,
    "SOLVER.EMA.DECAY", 0.5,
    "SOLVER.ACCUMULATION_STEPS", 2,
    "SOLVER.IMS_PER_BATCH", 4,
    "SOLVER.MAX_ITER", 7,
    "SOLVER.CHECKPOINT_PERIOD", 4,
    "SOLVER.CLIP_GRADIENTS.ENABLED", True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
    "TEST.EVAL_PERIOD", 2,
    "TEST.VALIDATION_LOSS", True,
    "TEST.BEST_CHECKPOINT.METRIC", "sem_seg/mIoU_group",
    "TEST.EARLY_STOPPING.METRIC", "validation_loss",
    "TEST.EARLY_STOPPING.MODE", "min",
    "TEST.EARLY_STOPPING.PATIENCE", 50,
]  # fmt: skip


def check_same(found, expected, where=""):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            check_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        check_same(dict(enumerate(found)), dict(enumerate(expected)), where)
    else:
        assert found == expected, where


def contents(folder: Path) -> dict:
    """All that a run leaves behind and that must not depend on interruptions."""
    names = ("model_final", "model_best", "model_ema")
    files = {name: torch.load(folder / f"{name}.pth", weights_only=True) for name in names}
    files["model_final"]["trainer"] = files["model_final"]["trainer"]["_trainer"]
    record = (folder / "evaluations.jsonl").read_text().splitlines()
    files["record"] = [json.loads(line) for line in record]
    files["last"] = (folder / "last_checkpoint").read_text()
    return files


def test_killed_runs_that_go_on_end_as_an_uninterrupted_one_in_all_they_keep(cfg, tmp_path):
    cfg.merge_from_list(EVERYTHING)
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    assert train_in_a_process(cfg) == 0
    whole = contents(tmp_path / "whole")
    assert [line["iteration"] for line in whole["record"]] == [2, 4, 6, 7]
    assert whole["last"] == "model_final.pth"
    check_same(whole["model_ema"]["model"], whole["model_final"]["ema"])
    raw = whole["model_final"]["model"]
    assert any(not torch.equal(raw[k], v) for k, v in whole["model_ema"]["model"].items())

    # between an evaluation and the next checkpoint; between a checkpoint and its evaluation
    for kill, evaluated in [({"after_iteration": 7}, [2, 4, 6]), ({"in_evaluation": 4}, [2])]:
        folder = tmp_path / "_".join(kill)
        cfg.OUTPUT_DIR = str(folder)
        assert train_in_a_process(cfg, **kill) == -signal.SIGKILL
        lines = (folder / "evaluations.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == evaluated
        if kill == {"in_evaluation": 4}:
            assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
        assert train_in_a_process(cfg, resume=True) == 0
        check_same(contents(folder), whole, kill)


def test_validation_loss_is_the_mean_of_the_training_loss_and_leaves_no_trace(cfg):
    cfg.MODEL.HIERA_SEG.AUXILIARY.WEIGHT = 0.4  # its dropout of a training would show
    trainer = HieraTrainer(cfg)
    model = trainer.model
    triplet = model.sem_seg_head.loss.losses[1]
    iterations = []
    triplet.weight_at = lambda iteration: iterations.append(iteration) or 1.0
    state = get_random_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with EventStorage(3) as storage:
        found = validation_losses(cfg, model, cfg.DATASETS.TEST[0])
        assert not storage.latest()
    assert model.training and model.sem_seg_head.embedding_head.training
    check_same(dict(model.state_dict()), before)
    check_same(get_random_state(), state)
    assert found == validation_losses(cfg, model, cfg.DATASETS.TEST[0])
    # The losses by hand: a model in eval, whose two outermost modules are told to train
    mapper = HieraDatasetMapper(cfg, False, with_sem_seg=True)
    model.eval()
    model.training = model.sem_seg_head.training = True
    records = [record for (record,) in trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])]
    with torch.no_grad():
        rows = [model([mapper(record)]) for record in records]
    for name in ("loss_focal_tree_min", "loss_auxiliary"):
        expected = sum(row[name].item() for row in rows) / len(rows)
        assert found[f"validation_{name}"] == pytest.approx(expected, rel=1e-6)
    assert set(iterations) == {None}  # the final weight of a schedule, not that of iteration 3
    terms = sum(value for name, value in found.items() if name != "validation_loss")
    assert found["validation_loss"] == pytest.approx(terms)


def test_a_run_that_gets_no_better_stops_with_a_final_model_and_stays_stopped(cfg):
    cfg.SOLVER.MAX_ITER = 40
    cfg.SOLVER.CHECKPOINT_PERIOD = 40
    cfg.TEST.EVAL_PERIOD = 1
    # from an untrained model the share of right pixels cannot sink for long
    cfg.merge_from_list(["TEST.EARLY_STOPPING.METRIC", "sem_seg/ACC-road"])
    cfg.merge_from_list(["TEST.EARLY_STOPPING.MODE", "min", "TEST.EARLY_STOPPING.PATIENCE", 1])
    cfg.SOLVER.BASE_LR = 0.0
    train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    final = torch.load(folder / "model_final.pth", weights_only=True)
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    assert len(lines) == final["iteration"] + 1 < 40
    trainer = train(cfg, resume=True)
    assert trainer.iter == final["iteration"] == trainer.start_iter - 1
    assert (folder / "evaluations.jsonl").read_text().splitlines() == lines
    cfg.TEST.EARLY_STOPPING.PATIENCE = 100  # more of it goes on
    cfg.SOLVER.MAX_ITER = final["iteration"] + 3
    train(cfg, resume=True)
    assert len((folder / "evaluations.jsonl").read_text().splitlines()) == final["iteration"] + 3


@pytest.mark.parametrize(
    ("mode", "patience", "values", "stops"),
    [
        ("max", 2, [1, 2, 2, 1.5], True),
        ("max", 2, [1, 2, 1, 3, 2], False),
        ("max", 3, [1, 2, 2, 1.5], False),
        ("min", 1, [3, 2, 2], True),
        ("min", 1, [3, 2, 1], False),
        ("max", 2, [1, math.nan, math.inf], True),
        ("max", 2, [math.nan, math.nan], True),
        ("max", 1, [], False),
    ],
)
def test_patience(mode, patience, values, stops):
    stopping = EarlyStopping("m", mode, patience)
    reason = stopping.reason(list(enumerate(values)))
    assert (reason is not None) == stops
    if stops:
        assert f"PATIENCE is {patience}" in reason


def test_the_best_weights_are_remembered_and_last_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    model = torch.nn.Linear(1, 1, bias=False)

    def see(best, value, iteration):
        torch.nn.init.constant_(model.weight, iteration)
        best.see(value, iteration, model)

    def kept():
        return torch.load(tmp_path / "model_best.pth", weights_only=True)

    best = BestWeights(str(tmp_path), "sem_seg/mIoU", "max")
    best.open(0)
    for value, iteration in [(math.nan, 10), (40.0, 20), (40.0, 30), (39.0, 40), (41.0, 50)]:
        see(best, value, iteration)
    assert kept()["model"]["weight"].item() == kept()["iteration"] == 50
    again = BestWeights(str(tmp_path), "sem_seg/mIoU", "max")
    again.open(20)
    see(again, 40.5, 60)
    assert kept()["iteration"] == 50
    see(again, 42.0, 70)
    assert kept()["iteration"] == 70
    other = BestWeights(str(tmp_path), "validation_loss", "min")
    other.open(70)
    see(other, 3.0, 80)
    assert (kept()["metric"], kept()["value"]) == ("validation_loss", 3.0)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    BestWeights(str(tmp_path), "validation_loss", "min").open(0)  # a new run: not its own
    assert not (tmp_path / "model_best.pth").exists()
    assert (tmp_path / "model_best_of_an_earlier_run.pth").is_file()
    other.see(2.0, 10, torch.nn.Linear(1, 1))
    BestWeights(str(tmp_path), "validation_loss", "min").open(0)
    assert (tmp_path / "model_best_of_an_earlier_run.pth").is_file()
    assert (tmp_path / "model_best_of_an_earlier_run_2.pth").is_file()


def test_a_damaged_file_of_best_weights_is_replaced(tmp_path, caplog):
    (tmp_path / "model_best.pth").write_bytes(b"half a file")
    best = BestWeights(str(tmp_path), "m", "max")
    best.open(5)
    assert "model_best.pth" in caplog.text
    best.see(1.0, 6, torch.nn.Linear(1, 1))
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["value"] == 1.0


def test_a_record_is_cut_where_a_run_goes_on(tmp_path):
    record = EvaluationRecord(str(tmp_path))
    record.open(0)
    for iteration in (2, 4, 6):
        record.add(iteration, {"m": iteration / 10, "n": math.nan})
    with record.path.open("a") as file:
        file.write('{"iteration": 8, "m"')  # a line that was cut off
    again = EvaluationRecord(str(tmp_path))
    again.open(4)
    assert again.values("m") == [(2, 0.2), (4, 0.4)]
    assert math.isnan(again.values("n")[0][1])
    again.add(4, {"m": 0.5})
    assert again.values("m") == [(2, 0.2), (4, 0.5)]
    again.open(0)
    assert again.lines == [] and record.path.read_text() == ""


@pytest.mark.parametrize("name", ["sem_seg/mIuO", "mIoU"])
def test_an_unknown_metric_is_refused_before_training(cfg, name):
    cfg.TEST.BEST_CHECKPOINT.METRIC = name
    with pytest.raises(ConfigError, match=f"'{name}'.* nearest: 'sem_seg/mIoU'"):
        HieraTrainer(cfg)


def test_a_metric_that_only_the_evaluation_shows_to_be_missing(cfg):
    cfg.SOLVER.MAX_ITER = 1
    cfg.MODEL.HIERA_SEG.TEST.DIRECT = False
    cfg.TEST.BEST_CHECKPOINT.METRIC = "sem_seg/consistency"
    with pytest.raises(ConfigError, match="unknown metric 'sem_seg/consistency'"):
        train(cfg)


@pytest.mark.parametrize("name", ["mIoU_direct_class", "ECE_group", "safe_depth_auc", "mIoU"])
def test_all_names_of_metrics_can_be_watched(cfg, name):
    cfg.TEST.BEST_CHECKPOINT.METRIC = f"sem_seg/{name}"
    cfg.TEST.BEST_CHECKPOINT.MODE = "min" if name.startswith("ECE") else "max"
    HieraTrainer(cfg)


def test_an_evaluation_of_a_checkpoint_takes_its_average_as_the_training_did(cfg):
    cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.EMA.DECAY = True, 0.9
    trainer = train(cfg)
    results = trainer._last_eval_results
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    assert dict(HieraTrainer.evaluate(cfg)) == dict(results)
    cfg.MODEL.HIERA_SEG.MAP_CLASSES = True
    assert dict(HieraTrainer.evaluate(cfg)) == dict(results)
    averaged = trainer.evaluated_model.state_dict()
    check_same(load_predictor(cfg)[0].model.state_dict(), averaged)
    check_same(HieraPredictor(cfg).model.state_dict(), averaged)
    cfg.SOLVER.EMA.ENABLED = False
    raw = plain_model(trainer.model).state_dict()
    check_same(load_predictor(cfg)[0].model.state_dict(), raw)
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_ema.pth")
    assert dict(HieraTrainer.evaluate(cfg)) == dict(results)


def train_from_seed(cfg) -> None:
    seed_everything(5)
    train(cfg)


def test_two_processes_watch_and_stop_as_one_does(cfg, tmp_path):
    """Everything that processes have to agree on; weights that stay, so that numbers compare."""
    cfg.merge_from_list(EVERYTHING)
    cfg.merge_from_list(["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN"])
    cfg.MODEL.HIERA_SEG.LOSSES = [["focal_tree_min", 1.0], ["level_ce", 1.0]]
    cfg.DATALOADER.ON_ERROR = "skip"
    cfg.SOLVER.BASE_LR = 0.0
    cfg.TEST.EVAL_PERIOD = cfg.TEST.EARLY_STOPPING.PATIENCE = 1
    records = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        cfg.OUTPUT_DIR = str(folder)
        in_processes(train_from_seed, cfg, folder=tmp_path / f"of{processes}", count=processes)
        names = {path.name for path in folder.iterdir()}
        assert {"model_best.pth", "model_ema.pth", "model_final.pth"} <= names
        records.append((folder / "evaluations.jsonl").read_text())
    assert len(records[0].splitlines()) == 2  # the second was not better
    assert records[0] == records[1]
