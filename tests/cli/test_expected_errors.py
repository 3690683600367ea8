"""Test that errors end a run with one line that names the cause, and before hours of training."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from hiera_seg.cli.exit import exit_on_error
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.loader import build_hiera_train_loader
from hiera_seg.engine import HieraTrainer
from hiera_seg.errors import DatasetError


def one_line(capsys, main: Callable, code: int) -> str:
    """Run a program as a command line does; return the one line that it ends with."""
    with pytest.raises(SystemExit) as stop:
        exit_on_error(main)
    assert stop.value.code == code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    (line,) = err.splitlines()
    return line


@pytest.fixture
def test_set(cfg, street, tiny_folder):
    """A function that makes DATASETS.TEST of three images, whose label files it is given."""

    def make(*labels: Path | None) -> None:
        images = sorted((tiny_folder / "images").iterdir())
        records = [
            {"file_name": str(image), "height": 40, "width": 48}
            | ({} if label is None else {"sem_seg_file_name": str(label)})
            for image, label in zip(images, labels, strict=True)
        ]
        register_hierarchical_dataset("tiny_street_val", lambda: records, hierarchy=street)
        cfg.DATASETS.TEST = ("tiny_street_val",)

    return make


def check_found_early(cfg, *parts: str) -> None:
    """Check that neither training nor evaluation begins; the message holds all parts."""
    for begin in (HieraTrainer, HieraTrainer.evaluate):
        with pytest.raises(DatasetError) as error:
            begin(cfg)
        for part in parts:
            assert part in str(error.value)


@pytest.mark.parametrize("problem", ["none", "gone", "cut short", "unknown id"])
def test_a_label_that_cannot_be_used_is_found_before_training(
    cfg, test_set, tiny_folder, tmp_path, problem
):
    label, bad = tiny_folder / "labels" / "0.png", tmp_path / "bad.png"
    if problem == "cut short":
        bad.write_bytes(label.read_bytes()[:60])
    elif problem == "unknown id":
        cv2.imwrite(str(bad), np.full((40, 48), 77, np.uint8))
    test_set(label, None if problem == "none" else bad, label)
    named = str(tiny_folder / "images" / "1.jpg") if problem == "none" else str(bad)
    where = ["tiny_street_val", "1 of 3"] if problem in ("none", "gone") else []
    check_found_early(cfg, *where, named)


def test_an_image_of_a_test_set_that_is_missing_is_found_before_training(cfg, street, tiny_folder):
    label = str(tiny_folder / "labels" / "0.png")
    records = [{"file_name": "gone.jpg", "sem_seg_file_name": label}]
    register_hierarchical_dataset("no_image", lambda: records, hierarchy=street)
    cfg.DATASETS.TEST = ("no_image",)

    class OwnLoader(HieraTrainer):
        @classmethod
        def build_test_loader(cls, cfg, dataset_name):
            raise NotImplementedError

    check_found_early(cfg, "no_image", "gone.jpg")
    OwnLoader(cfg)  # who knows what it reads


def test_a_resumed_run_that_is_done_says_so_and_evaluates(cfg, caplog):
    cfg.TEST.EVAL_PERIOD = 2
    cfg.TEST.BEST_CHECKPOINT.METRIC = "sem_seg/mIoU"
    cfg.SOLVER.MAX_ITER = 4
    HieraTrainer(cfg).train()
    folder = Path(cfg.OUTPUT_DIR)
    before = (folder / "last_checkpoint").read_text()
    for max_iter in (4, 2):
        cfg.SOLVER.MAX_ITER = max_iter
        trainer = HieraTrainer(cfg)
        trainer.resume_or_load(resume=True)
        with caplog.at_level("INFO", logger="hiera_seg"):
            assert "mIoU" in trainer.train()["sem_seg"]
        assert "Nothing to train: 4 iterations are done" in caplog.text
        assert f"SOLVER.MAX_ITER is {max_iter}" in caplog.text
        lines = (folder / "evaluations.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == [2, 4]
        assert (folder / "last_checkpoint").read_text() == before


def test_batch_norm_on_one_value_is_a_line_with_the_keys(cfg, capsys, caplog):
    cfg.SOLVER.IMS_PER_BATCH = 1
    line = one_line(capsys, HieraTrainer(cfg).train, code=2)
    for key in ("SOLVER.IMS_PER_BATCH", "INPUT.CROP.SIZE", "MODEL.RESNETS.NORM"):
        assert key in line
    assert "Traceback" not in caplog.text


def kill_itself(record: dict) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loader_worker_is_a_line(capsys):
    records = [{"file_name": "a.jpg"}]
    loader = build_hiera_train_loader(
        records, mapper=kill_itself, total_batch_size=1, num_workers=1
    )
    line = one_line(capsys, lambda: next(iter(loader)), code=1)
    assert "DataLoader worker (pid" in line and "DATALOADER.NUM_WORKERS" in line
