"""Test that a run whose disk is full ends with one line that names the file being written."""

import logging
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage

from hiera_seg import Hierarchy
from hiera_seg.cli.expected_errors import raise_disk_failures
from hiera_seg.engine.hooks import EvaluationRecord
from hiera_seg.engine.writers import MetricsFile
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.inference.coco import CocoResultWriter
from hiera_seg.losses import write_node_counts
from hiera_seg.visualization import save_label_map
from tests.helpers import run_script


@pytest.fixture
def command(script) -> list[str]:
    """A command that trains on the tiny dataset and evaluates at every iteration."""
    return script("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 1)


def check_one_line(done: subprocess.CompletedProcess, file: str) -> None:
    """Check that a run ended with one line that names a file, and no traceback."""
    assert done.returncode in (1, 2), done.stderr[-3000:]
    text = done.stdout + done.stderr
    for noise in ("Traceback", "Logging error", "Exception ignored", "Exception in thread"):
        assert noise not in text, text[-3000:]
    (line,) = re.findall("(?m)^error: .*", done.stderr)
    assert re.search(file, line), line


@pytest.mark.parametrize(
    ("limit", "file"),
    [
        (20, r"run\.lock: File too large"),
        (1000, r"File too large: .*config\.yaml"),
        (25_000, r"(log\.txt|events\.out\S+): File too large"),
        (1_000_000, r"model_final\.pth: .*File too large"),
    ],
)
def test_a_file_that_cannot_grow_ends_the_run(command, limit, file):
    def prepare():
        sys.dont_write_bytecode = True  # it would be cut short, and stay so
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    check_one_line(run_script(*command, prepare=prepare), file)


def test_to_resume_on_a_disk_that_is_still_full(command, small_disk):
    folder = small_disk(200)
    resume = [*command, "--resume", "OUTPUT_DIR", str(folder)]
    check_one_line(run_script(*resume), rf"{folder}/\S+.* No space left on device")
    with open(folder / "other", "wb") as file, pytest.raises(OSError):
        while True:
            os.write(file.fileno(), bytes(1024))
    check_one_line(run_script(*resume), rf"{folder}/\S+.* No space left on device")


def evaluate(folder: Path, street: Hierarchy) -> None:
    evaluator = HieraSemSegEvaluator("tiny_street_train", output_dir=str(folder))
    record = DatasetCatalog.get("tiny_street_train")[0]
    evaluator.process([record], [{"sem_seg": torch.zeros(4, 40, 48)}])
    evaluator.evaluate()


def write_regions(folder: Path, street: Hierarchy) -> None:
    with CocoResultWriter(folder, street) as writer:
        writer.add("a.jpg", {"hiera_labels": [np.zeros((2, 2), np.int64)] * 2})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("hiera_metrics.json", evaluate),
        ("confusion_group.npz", evaluate),
        ("image_counts.npz", evaluate),
        ("evaluations.jsonl", lambda folder, _: EvaluationRecord(str(folder)).add(1, {"mIoU": 1})),
        ("rle-group.json", write_regions),
        ("rle-images.json", write_regions),
        ("a.png", lambda folder, s: save_label_map(folder / "a.png", np.zeros((2, 2), int), s)),
        ("counts.json", lambda folder, _: write_node_counts(folder / "counts.json", {"car": 1})),
        ("tree.yaml", lambda folder, street: street.to_yaml(folder / "tree.yaml")),
    ],
)
def test_a_writer_names_its_file(name, write, street, tiny_dataset, tmp_path):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        write(tmp_path, street)
    assert error.value.filename == str(tmp_path / name)
    assert not list(tmp_path.glob("*.tmp"))


def test_metrics_name_their_file():
    writer = MetricsFile("/dev/full")
    with EventStorage(1) as storage, pytest.raises(OSError) as error:
        storage.put_scalar("loss", 1.0)
        writer.write()
    assert error.value.filename == "/dev/full"
    writer.close()


def test_tensorboard_names_its_folder_and_its_thread_is_quiet(tmp_path):
    pytest.importorskip("tensorboard")
    code = """
import resource, sys
from detectron2.utils.events import EventStorage
from hiera_seg.cli.exit import exit_on_error
from hiera_seg.engine.writers import TensorboardFile

def main():
    writer = TensorboardFile(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    with EventStorage(1) as storage:
        for i in range(100):
            storage.iter = i
            storage.put_scalar("loss", 1.0)
            writer.write()
        writer.close()

exit_on_error(main)
"""
    (tmp_path / "write.py").write_text(code)
    done = run_script(tmp_path / "write.py", tmp_path)
    check_one_line(done, rf"{tmp_path}/events\.out\.tfevents\S*: File too large")


def test_a_log_raises_once_and_other_errors_keep_their_report(monkeypatch, capsys):
    for owner, name in ((threading, "excepthook"), (logging.Handler, "handleError")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards
    raise_disk_failures()
    logger = logging.Logger("of a full disk")
    logger.addHandler(logging.StreamHandler(open("/dev/full", "w")))
    with pytest.raises(OSError) as error:
        logger.info("x")
    assert error.value.filename == "/dev/full"
    logger.info("x")  # nothing is left of what failed
    logger.info("%d", "x")
    assert "Logging error" in capsys.readouterr().err
