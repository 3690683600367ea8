"""Two runs in one folder: the second one is refused, and a lock of a dead one is taken over."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hiera_seg.cli import output_folder
from hiera_seg.cli.output_folder import LOCK, claim_output_folder
from hiera_seg.errors import ConfigError

HOLD = """
import sys, time
from hiera_seg.cli.output_folder import claim_output_folder
claim_output_folder(sys.argv[1])
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen:
    """Start a process that claims a folder for some seconds, and wait until it has."""
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path) -> Iterator[subprocess.Popen]:
    process = hold(tmp_path / "run", 300)
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_holds_the_folder(holder, tmp_path):
    for _ in range(2):  # asking does not release it
        with pytest.raises(ConfigError) as error:
            claim_output_folder(str(tmp_path / "run"))
        for part in ("OUTPUT_DIR", str(tmp_path / "run"), socket.gethostname(), str(holder.pid)):
            assert part in str(error.value)


def test_the_lock_of_a_killed_run_is_taken_over(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (tmp_path / "run" / LOCK).read_text(), "it had no time to remove it"
    claim_output_folder(str(tmp_path / "run"))
    claim_output_folder(str(tmp_path / "run"))  # its own process may ask again
    text = (tmp_path / "run" / LOCK).read_text()
    assert re.search(rf"\b{os.getpid()}\b", text) and str(holder.pid) not in text


def test_a_run_that_ends_leaves_no_lock_file(tmp_path):
    hold(tmp_path, 0).wait()
    assert os.listdir(tmp_path) == []


def test_a_file_that_its_holder_removes_meanwhile_is_not_what_is_locked(tmp_path, monkeypatch):
    """Two processes would each hold a lock then, on two files of one name."""
    lock, locked = output_folder.fcntl.lockf, []

    def replaced_before_it_is_locked(descriptor: int, how: int) -> None:
        if not locked:
            os.replace(tmp_path / LOCK, tmp_path / "removed")
            (tmp_path / LOCK).write_text("another process")
        locked.append(os.fstat(descriptor).st_ino)
        lock(descriptor, how)

    monkeypatch.setattr(output_folder.fcntl, "lockf", replaced_before_it_is_locked)
    claim_output_folder(str(tmp_path))
    assert locked[-1] == os.stat(tmp_path / LOCK).st_ino != locked[0]


def test_a_restarted_job_waits_for_the_lock_of_its_lost_machine(tmp_path, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "job-1"), ("TORCHELASTIC_RESTART_COUNT", "0")):
        monkeypatch.setenv(name, value)
    process = hold(tmp_path, 2)
    start = time.monotonic()
    claim_output_folder(str(tmp_path))
    assert time.monotonic() - start < 60
    assert process.wait() == 0


def test_another_job_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    for job, other in (("job-1", "job-2"), ("none", "none")):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        process = hold(tmp_path, 300)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", other)
        with pytest.raises(ConfigError, match=str(process.pid)):
            claim_output_folder(str(tmp_path))
        process.kill()
        process.communicate()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(output_folder.logger.parent, "propagate", True)
    monkeypatch.setattr(output_folder.fcntl, "lockf", refuse)
    claim_output_folder(str(tmp_path))
    assert str(tmp_path / LOCK) in caplog.text and "No locks available" in caplog.text
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_utf_8_is_named():
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR b'out\\xff'"):
        claim_output_folder(os.fsdecode(b"out\xff"))
