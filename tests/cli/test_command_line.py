"""tools/train_net.py and what is behind it: one process and two, and errors of one line."""

import io
import json
import logging
import os
import re
import socket
import sys

import pytest

from hiera_seg.cli import exit_on_error, load_config, setup
from hiera_seg.cli.output_folder import LOCK
from hiera_seg.errors import ConfigError
from tests.helpers import CONFIGS, TOOLS, run_python, run_script

from .test_output_folder import hold

TRAIN_NET = TOOLS / "train_net.py"


@pytest.fixture
def train(script) -> list[str]:
    """A command that trains two iterations on the tiny dataset."""
    # Two images per process: BN needs more than one value at stride 32
    return script("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 4)


@pytest.fixture
def train_net(train, tiny_folder, tmp_path) -> list[str]:
    """A command of tools/train_net.py with a user's module that registers the dataset."""
    (tmp_path / "my_datasets.py").write_text(
        f"from tests.tiny_street import register\nregister({str(tiny_folder)!r})\n"
    )
    return [TRAIN_NET, "--import", "my_datasets", *train[1:]]


@pytest.mark.parametrize("launcher", ["--num-gpus", "torchrun"])
def test_two_processes_on_cpu(train, tmp_path, launcher):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    if launcher == "torchrun":
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", port]
        done = run_python(*torchrun, *train)
    else:
        done = run_python(*train, "--num-gpus", 2, "--dist-url", f"tcp://127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "run"
    assert (folder / "log.txt.rank1").is_file(), "the second process keeps a log of its own"
    assert json.loads((folder / "hiera_metrics.json").read_text())
    assert (folder / "model_final.pth").is_file()


def test_two_processes_are_refused_a_folder_that_another_run_holds(train, tmp_path):
    process = hold(tmp_path / "run", 300)
    done = run_python(*train, "--num-gpus", 2)
    process.kill()
    process.communicate()
    assert done.returncode == 2
    (line,) = re.findall("(?m)^error: .*", done.stderr)
    assert "OUTPUT_DIR" in line and str(process.pid) in line
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "run") == [LOCK], "nothing is written before it is refused"


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--config-file", "missing.yaml"], 2, "error: config file missing.yaml: .*does not exist"),
        (["MODEL.NOPE", "1"], 2, "error: options MODEL.NOPE 1: Non-existent.*MODEL.NOPE"),
        (["SOLVER.MAX_ITER", "soon"], 2, "error: options SOLVER.MAX_ITER soon: .*int"),
        (["--nope"], 2, "unrecognized arguments: --nope"),
        (["SOLVER.MAX_ITER", "2", "--resume"], 2, "error: --resume is after KEY VALUE pairs"),
        (
            ["MODEL.HIERA_SEG.TEST.MIN_CONFIDENCE", "None"],
            2,
            "TEST.MIN_CONFIDENCE is None; .* is -1.0",
        ),
        (["LOGGERS", "None"], 2, r"error: LOGGERS is None; .* is \['tensorboard'\]"),
        (
            ["MODEL.HIERA_SEG.TEST.SAFE_DEPTH", "deep"],
            2,
            "error: options MODEL.HIERA_SEG.TEST.SAFE_DEPTH deep: .*MIN_CONFIDENCE",
        ),
        (["DATASETS.TRAIN", "('hiera_nope_train',)"], 2, "error: .*hiera_nope_train.*--import"),
        (["DATASETS.TEST", "('hiera_nope_val',)"], 2, "error: .*hiera_nope_val.*--import"),
        (["DATASETS.TRAIN", "()"], 2, "error: DATASETS.TRAIN is empty"),
        (["--config-file", ""], 2, "error: --config-file is missing"),
        (["MODEL.HIERA_SEG.HIERARCHY", "citiscapes"], 2, "error: .*HIERARCHY: .*'cityscapes'"),
        (["MODEL.WEIGHTS", "nope.pth"], 1, "error: nope.pth: no such checkpoint file"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_one_line_and_no_traceback(train, tmp_path, arguments, code, line):
    if "--config-file" not in arguments:
        arguments = [*train[1:], *arguments]
    else:
        arguments = [*arguments, "OUTPUT_DIR", str(tmp_path)]
    done = run_script(train[0], *arguments)
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert re.search(line, done.stderr.strip().splitlines()[-1])
    assert (done.stdout + done.stderr).count("error: ") == 1
    if code == 2:  # what was typed is checked before anything else is printed
        assert done.stdout == ""


def test_a_dataset_whose_files_are_missing_says_which_folder_it_wanted(tmp_path):
    config = CONFIGS / "CamVid" / "flat_deeplab_v3_plus_r18.yaml"
    nothing = {"DETECTRON2_DATASETS": str(tmp_path / "nothing")}
    done = run_script(TRAIN_NET, "--config-file", config, "OUTPUT_DIR", tmp_path, **nothing)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(tmp_path / "nothing" / "camvid") in last
    assert "Traceback" not in done.stderr


def test_the_console_is_short_and_the_log_whole_and_both_without_colours(train, tmp_path):
    done = run_script(*train, "SEED", 5, FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr[-2000:]
    before, _, after = done.stdout.partition("Starting training from iteration 0")
    lines = before.splitlines()
    assert len(lines) <= 20, before
    for fact in (
        train[2], "tiny_street_train, 3 images", "cpu", str(tmp_path / "run"), "seed: 5",
        "4 leaves", "M parameters",
    ):  # fmt: skip
        assert fact in before, fact
    assert after
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "CHECKPOINT_PERIOD: " in log and "(sem_seg_head): HieraPixelHead(" in log
    assert "CHECKPOINT_PERIOD: " in (tmp_path / "run" / "config.yaml").read_text()
    assert "CHECKPOINT_PERIOD: " not in done.stdout and "(sem_seg_head)" not in done.stdout
    assert "\x1b" not in log + done.stdout + done.stderr


def test_no_gpu_means_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert load_config("", ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert load_config("", ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE == "cuda"


def test_an_output_folder_that_can_not_be_written_is_named(tmp_path, monkeypatch):
    # Detectron2 leaves it off, and other tests would not see what is logged
    monkeypatch.setattr(logging.getLogger("hiera_seg"), "propagate", True)
    (tmp_path / "file").write_text("")

    class Args:
        config_file = str(CONFIGS / "CamVid/hssn_deeplab_v3_plus_r18.yaml")
        opts = ("OUTPUT_DIR", str(tmp_path / "file" / "run"))

    with pytest.raises(ConfigError, match="OUTPUT_DIR .*file/run cannot be written"):
        setup(Args)


def test_a_users_module_registers_a_dataset_for_train_net(train_net, tmp_path):
    done = run_script(*train_net, "SOLVER.MAX_ITER", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    first = json.loads((tmp_path / "run" / "hiera_metrics.json").read_text())
    done = run_script(TRAIN_NET, "--import", "not_there", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: --import not_there: ")

    weights = ["MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth"]
    other = ["OUTPUT_DIR", tmp_path / "again"]
    wrong = ["TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 101.0, 0.5]]"]
    done = run_script(*train_net, "--eval-only", *weights, *other, *wrong, cwd=tmp_path)
    assert done.returncode == 1
    assert "Result verification failed" in done.stdout
    assert json.loads((tmp_path / "again" / "hiera_metrics.json").read_text()) == first


def test_a_terminal_that_lacks_the_letters_of_a_tree(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="latin-1"))
    exit_on_error(print, "├── caf\u00e9")
    assert printed.getvalue() == b"??? caf\xe9\n"
