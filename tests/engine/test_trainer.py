"""Runs that stop and go on, on CPU; what a checkpoint holds; what a run leaves behind."""

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from hiera_seg.engine import HieraTrainer
from hiera_seg.engine.randomness import get_random_state, seed_everything, set_random_state
from hiera_seg.errors import ConfigError
from tests.tiny_street import register

from .processes import train, train_in_a_process


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth")["model"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_that_goes_on_ends_with_the_weights_of_an_uninterrupted_one(
    cfg, tmp_path, workers
):
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    assert train_in_a_process(cfg) == 0

    cfg.OUTPUT_DIR = str(tmp_path / "cut")
    assert train_in_a_process(cfg, after_iteration=5) == -signal.SIGKILL
    assert not (tmp_path / "cut" / "model_final.pth").exists()
    assert (tmp_path / "cut" / "last_checkpoint").read_text() == "model_0000003.pth"
    assert train_in_a_process(cfg, resume=True) == 0

    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_a_seed_is_drawn_where_there_is_none(cfg):
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER = 1
    cfg.SEED = -1
    cfg.freeze()
    first, second = HieraTrainer(cfg), HieraTrainer(cfg)
    first.train()
    assert cfg.SEED == -1 and first.cfg.SEED >= 0 and first.cfg.SEED != second.cfg.SEED
    assert first.data_loader.seed == first.model.sem_seg_head.seed == first.cfg.SEED
    assert first.cfg.is_frozen()


def test_a_run_resumes_under_a_longer_schedule_with_its_own_seed(cfg):
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER = 4
    train(cfg)
    cfg.SOLVER.MAX_ITER = 40
    cfg.SEED = 99
    trainer = HieraTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * (1 - 4 / 40) ** 0.9)
    assert trainer.optimizer.state, "momentum is part of a checkpoint"
    assert trainer.data_loader.seed == trainer.model.sem_seg_head.seed == 7
    assert trainer.data_loader.start_position == 4 * 2


def test_a_run_resumes_at_its_place_in_the_data_with_batches_of_another_size(cfg):
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER = 3
    train(cfg)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 5, 4
    train(cfg, resume=True)
    cfg.SOLVER.MAX_ITER = 9
    trainer = HieraTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.data_loader.start_position == 3 * 2 + 2 * 4


def test_precise_statistics_see_the_images_of_an_uninterrupted_run(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 4, 2, 2
    cfg.TEST.PRECISE_BN.ENABLED, cfg.TEST.PRECISE_BN.NUM_ITER = True, 3
    cfg.DATASETS.TEST = ()
    train(cfg)
    whole = weights(Path(cfg.OUTPUT_DIR))
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000001.pth")
    train(cfg, resume=True)
    resumed = weights(Path(cfg.OUTPUT_DIR))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_run_logs_each_loss_and_ends_with_results_per_level(cfg):
    results = train(cfg)._last_eval_results
    assert {"mIoU", "mIoU_group", "mIoU_class", "consistency"} <= results["sem_seg"].keys()
    folder = Path(cfg.OUTPUT_DIR)
    logged = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    names = set().union(*logged)
    assert {"loss_focal_tree_min", "loss_tree_triplet", "total_loss", "lr"} <= names
    assert (folder / "hiera_metrics.json").is_file()


def test_a_leaf_without_ground_truth_is_warned_of_before_training(cfg, tiny_folder, caplog):
    no_trucks = {0: 0, 1: 1, 2: 2, 3: None}
    name = register(tiny_folder, "tiny_street_without_trucks", label_map=no_trucks)

    def stop():
        raise KeyboardInterrupt

    for test_set, expected in ((name, True), (cfg.DATASETS.TRAIN[0], False)):
        caplog.clear()
        cfg.DATASETS.TEST = (test_set,)
        trainer = HieraTrainer(cfg)
        trainer.run_step = stop
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert any("truck" in text and name in text for text in warnings) == expected


def test_expected_results_that_are_missed_end_the_run_with_code_1(cfg):
    cfg.SOLVER.MAX_ITER = 1
    cfg.TEST.EXPECTED_RESULTS = [["sem_seg", "mIoU", 100.0, 0.01]]
    with pytest.raises(SystemExit) as stop:
        train(cfg)
    assert stop.value.code == 1


def test_random_state_survives_a_file(tmp_path):
    seed_everything(3, 1, 4)
    torch.save(get_random_state(), tmp_path / "state.pth")
    drawn = torch.rand(3), np.random.rand(3), random.random()
    seed_everything(5)
    set_random_state(torch.load(tmp_path / "state.pth"))
    again = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(drawn[0], again[0])
    assert np.array_equal(drawn[1], again[1])
    assert drawn[2] == again[2]


def test_seeds_of_neighbouring_steps_have_nothing_in_common():
    draws = []
    for key in [(1, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 0)]:
        seed_everything(*key)
        draws.append(torch.rand(1).item())
    assert len(set(draws)) == 4


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("DATASETS.TEST", ("tiny_street_val",), "nearest: 'tiny_street_train'"),
        ("MODEL.HIERA_SEG.LOSSES", [["tre_min", 1.0]], "unknown loss 'tre_min'; known: "),
        ("MODEL.HIERA_SEG.TEST.DECODE", "best", "DECODE is 'best'"),
        ("MODEL.HIERA_SEG.TEST.OUTPUT", "all", "OUTPUT is 'all'; choose one of"),
        ("SOLVER.LR_SCHEDULER_NAME", "Poly", "SOLVER.LR_SCHEDULER_NAME: Unknown .*Poly"),
    ],
)
def test_a_config_that_can_not_work_is_refused_before_training(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=message):
        HieraTrainer(cfg)


def test_training_in_bfloat16_computes_in_it_and_keeps_float32_weights(cfg):
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.PRECISION = True, "bfloat16"
    cfg.SOLVER.MAX_ITER = 1
    trainer = HieraTrainer(cfg)
    seen = []
    trainer.model.sem_seg_head.predictor.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    trainer.train()
    assert seen == [torch.bfloat16]
    assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
