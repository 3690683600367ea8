"""One process that fails ends all of them, with one line."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from detectron2.utils import comm

from hiera_seg.cli import exit as cli
from hiera_seg.cli import launch, processes
from hiera_seg.compat import DistStoreError
from hiera_seg.errors import ConfigError
from tests.helpers import run_python

SCRIPT = """
import atexit, os, signal, sys, time
from pathlib import Path
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.cli import launch, setup

class Rest:  # aborts as a thread of gloo does if the interpreter is finalized beneath it
    def __del__(self, abort=os.abort):
        abort()

def fail(args):
    sys.rest = Rest()
    atexit.register(print, "exit handlers ran")
    how = args.opts[0]
    if how == "all wrong":
        raise ConfigError("MODEL.NOPE is unknown")
    if comm.get_rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DatasetError("label 7.png is damaged")
    dist.barrier()  # what the other one never reaches

def hang(args):
    assert setup(args).DIST_TIMEOUT == 5
    if comm.get_rank() == 1:
        time.sleep(10000)
    comm.all_gather("what the other one never answers")

def wait(args):  # and write the id of the process
    part = Path(args.opts[0], f"{comm.get_rank()}.part")
    part.write_text(str(os.getpid()))
    part.rename(part.with_suffix(""))
    time.sleep(120)

if __name__ == "__main__":
    launch(MAIN, default_argument_parser().parse_args())
"""


def write_script(folder: Path, main: str) -> Path:
    (folder / "train.py").write_text(SCRIPT.replace("MAIN", main))
    return folder / "train.py"


@pytest.mark.parametrize("launcher", ["--num-gpus", "torchrun"])
def test_a_process_that_hangs_ends_the_job_after_dist_timeout(launcher, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "DIST_TIMEOUT: 5\nDATASETS: {TRAIN: [hiera_camvid_train]}\n"
    )
    command = [write_script(tmp_path, "hang"), "--config-file", tmp_path / "config.yaml"]
    if launcher == "torchrun":
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node", 2, *command, "OUTPUT_DIR", tmp_path / "run"]
    else:
        command += ["--num-gpus", 2, "--dist-url", "auto", "OUTPUT_DIR", tmp_path / "run"]
    done = run_python(*command)
    assert done.returncode == 1, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert "DIST_TIMEOUT" in line
    if launcher == "--num-gpus":
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", [0, -3])
def test_a_timeout_has_to_be_positive(seconds):
    args = argparse.Namespace(config_file="", opts=["DIST_TIMEOUT", str(seconds)])
    with pytest.raises(ConfigError, match=f"DIST_TIMEOUT is {seconds}"):
        processes._timeout(args)


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("all wrong", 2, "error: MODEL.NOPE is unknown"),
        ("one wrong", 1, "error: process 1 of 0..1: label 7.png is damaged"),
        ("killed", 1, "error: process 1 of this machine was killed by SIGKILL (out of memory?); "),
    ],
)
def test_a_process_that_fails_ends_all_with_one_line(how, code, line, tmp_path):
    script = write_script(tmp_path, "fail")
    done = run_python(script, "--num-gpus", 2, "--dist-url", "auto", how)
    assert done.returncode == code, done.stderr
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith(line)
    assert "Traceback" not in done.stderr
    assert ("exit handlers ran" in done.stdout) == (how != "killed")


def args(**changes: object) -> argparse.Namespace:
    found = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**found | changes)


@pytest.mark.parametrize(
    ("environment", "gpus", "arguments", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, 0, {}, "but not LOCAL_WORLD_SIZE"),
        ({}, 1, {}, "--num-gpus is 2, but this machine has 1 GPU(s)"),
        ({}, 0, {"num_machines": 2}, "--dist-url is auto, which is for one machine"),
        ({}, 0, {"num_gpus": -1}, "--num-gpus is -1"),
        ({}, 0, {"num_machines": 0}, "--num-machines is 0"),
        ({}, 2, {"num_gpus": 0, "num_machines": 2}, "--num-gpus is 0"),
        ({}, 0, {"num_machines": 2, "machine_rank": 2}, "--machine-rank is 2 and --num-machines 2"),
        ({}, 0, {"machine_rank": -1}, "--machine-rank is -1"),
    ],
)
def test_what_can_not_be_started_is_said(
    environment, gpus, arguments, message, monkeypatch, capsys
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(SystemExit) as stop:
        launch(lambda _: None, args(**arguments))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("gpus", [0, 2])
def test_no_gpus_asked_for_is_one_process_here(gpus, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    called = []
    launch(called.append, args(num_gpus=0))
    assert [a.num_gpus for a in called] == [0]


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_a_job_in_the_background_that_is_ended_leaves_no_process_behind(tmp_path):
    script = write_script(tmp_path, "wait")
    command = [sys.executable, script, "--num-gpus", 2, "--dist-url", "auto"]
    job = subprocess.Popen(
        [str(part) for part in [*command, tmp_path]],
        # as a shell without job control starts `command &`
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        stderr=subprocess.DEVNULL,
    )
    started: list[int] = []
    try:
        until = time.monotonic() + 100
        while len(started) < 2 and time.monotonic() < until and job.poll() is None:
            started = [int(p.read_text()) for p in (tmp_path / "0", tmp_path / "1") if p.exists()]
            time.sleep(0.1)
        assert len(started) == 2
        job.terminate()
        job.wait(timeout=60)
        until = time.monotonic() + 60
        while any(map(runs, started)) and time.monotonic() < until:
            time.sleep(0.1)
        assert [process for process in started if runs(process)] == []
    finally:
        job.kill()
        for process in filter(runs, started):
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize(
    "error",
    [
        DistStoreError("the client socket has failed to connect"),
        RuntimeError("[/x/gloo/transport/tcp/pair.cc:538] Connection closed by peer"),
    ],
)
def test_a_process_that_lost_the_others_points_at_them(error, monkeypatch, capsys):
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.exit_on_error(main)
    assert stop.value.code == 1
    assert "error: process 1 of 0..1: lost contact with another" in capsys.readouterr().err
