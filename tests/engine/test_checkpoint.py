"""Saving: there is always a whole checkpoint, whatever happens meanwhile."""

import logging
import multiprocessing
import os
import re
import resource
from pathlib import Path

import pytest
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.disk import replace_file
from hiera_seg.errors import CheckpointError
from tests.helpers import run_python

KILLER = Path(__file__).with_name("kill_while_saving.py")


def test_fifty_kills_while_saving_leave_a_loadable_checkpoint_each_time(tmp_path):
    memory = Path("/dev/shm")  # where a sync takes no time
    folder = tmp_path if not os.access(memory, os.W_OK) else None
    done = run_python(KILLER, 50, *filter(None, [folder]), TMPDIR=str(folder or memory))
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(
        r"50 kills, (\d+) amid a file, \d+ checkpoints saved, all loaded", done.stdout
    )
    assert int(found[1]) >= 5, "too few kills fell into a save to say anything"


def save_with_little_space(folder: str, limit: int, results: multiprocessing.Queue) -> None:
    logging.disable()  # a file that captures the log would be full too
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # as a full disk: writing fails
    try:
        HieraCheckpointer(nn.Linear(300, 300), folder).save("model", iteration=2)
    except CheckpointError as error:
        results.put(str(error))


@pytest.mark.parametrize("limit", [0, 1000, 200_000, 361_000])
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path, limit):
    checkpointer = HieraCheckpointer(nn.Linear(300, 300), str(tmp_path))
    checkpointer.save("model", iteration=1)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    process = fork.Process(target=save_with_little_space, args=(str(tmp_path), limit, results))
    process.start()
    message = results.get(timeout=60)
    process.join()
    assert re.match(rf"{tmp_path}/model\.pth: .*File too large", message)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1


def test_a_disk_that_is_really_full(small_disk):
    folder = small_disk(600)
    checkpointer = HieraCheckpointer(nn.Linear(300, 300), str(folder))
    checkpointer.save("model_0", iteration=1)
    with pytest.raises(CheckpointError, match=r"model_1\.pth: .* No space left on"):
        checkpointer.save("model_1", iteration=2)
    assert sorted(os.listdir(folder)) == ["last_checkpoint", "model_0.pth"]
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1


def test_an_error_of_another_kind_is_passed_on_and_leaves_no_file(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "x", interrupted)
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_two_files_of_a_folder_may_be_written_at_once(tmp_path):
    # as several processes do whose losses are not finite
    def write_while_another_is_written(file):
        file.write(b"first")
        replace_file(tmp_path / "dump_1.pth", lambda other: other.write(b"second"))

    replace_file(tmp_path / "dump_0.pth", write_while_another_is_written)
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"dump_0.pth": b"first", "dump_1.pth": b"second"}


def test_all_is_on_the_disk_before_and_after_the_renaming(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=real: (calls.append(n), f(*a)))
    replace_file(tmp_path / "x", lambda file: file.write(b"new"))
    assert calls == ["fsync", "replace", "fsync"], "the file, its name, the folder"
