"""Processes that die: torchrun restarts them, and training resumes from the last checkpoint."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from torch.distributed import HashStore

from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.cli.output_folder import LOCK
from hiera_seg.cli.rendezvous import meet
from hiera_seg.compat import DistStoreError
from hiera_seg.engine import elastic as restart
from hiera_seg.errors import CheckpointError
from tests.helpers import run_python
from tests.tiny_street import SCRIPT

from .processes import train

# Its second process kills itself once, after an iteration that no checkpoint holds.
DIES = """
import os, signal
from detectron2.engine import HookBase
from detectron2.utils import comm

class Die(HookBase):
    def after_step(self):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and comm.get_rank() == 1 and self.trainer.iter == 2:
            os.kill(os.getpid(), signal.SIGKILL)
""" + SCRIPT.replace("trainer.train()", "trainer.register_hooks([Die()]); trainer.train()")

# What makes two processes equal to one: no statistics of a batch, nothing random in the network.
SAME_FOR_ANY_NUMBER_OF_PROCESSES = [
    *("MODEL.RESNETS.NORM", "GN"),
    *("MODEL.SEM_SEG_HEAD.NORM", "FrozenBN"),
    *("MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", 0.0),
    *("MODEL.HIERA_SEG.LOSSES", [["focal_tree_min", 1.0], ["level_ce", 1.0]]),
    *("SOLVER.MAX_ITER", 4),
    *("SOLVER.CHECKPOINT_PERIOD", 2),
    *("DATASETS.TEST", ()),
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth")["model"]


def test_a_job_whose_process_was_killed_ends_with_the_weights_of_one_undisturbed_process(
    cfg, script, tmp_path
):
    job = script(*SAME_FOR_ANY_NUMBER_OF_PROCESSES, text=DIES)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run_python(*torchrun, "--max-restarts=1", *job)
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "torchrun restarted this job; resuming from its last checkpoint" in log
    assert re.findall(r"Starting training from iteration (\d+)", log) == ["0", "2"]
    assert not (tmp_path / "run" / LOCK).exists()
    assert "-9" in done.stderr, "the test wants a process that was killed"

    cfg.OUTPUT_DIR = str(tmp_path / "alone")
    os.mkdir(cfg.OUTPUT_DIR)
    seed_all_rng(cfg.SEED)  # as the first process begins
    train(cfg)
    together, alone = weights(tmp_path / "run"), weights(tmp_path / "alone")
    for name, value in alone.items():
        assert torch.allclose(together[name], value, rtol=0, atol=1e-5), name


def save(checkpointer: HieraCheckpointer, name: str, time: int) -> None:
    """Save a checkpoint under a clock that was set to some second of 1970."""
    checkpointer.save(name)
    for file in (f"{name}.pth", "last_checkpoint"):
        os.utime(Path(checkpointer.save_dir) / file, (time, time))


@pytest.fixture
def checkpointer(tmp_path, monkeypatch) -> HieraCheckpointer:
    """Of a folder that holds a finished run; torchrun has just started this job."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    checkpointer = HieraCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    checkpointer.run_id = "of yesterday"
    save(checkpointer, "model_final", 1)
    return checkpointer


CLOCKS = pytest.mark.parametrize("time", [1, 4_000_000_000], ids=["set_back", "set_forward"])


@CLOCKS
def test_a_checkpoint_of_an_earlier_run_is_not_resumed_from(checkpointer, monkeypatch, time):
    os.utime(checkpointer.get_checkpoint_file(), (time, time))
    os.utime(Path(checkpointer.save_dir) / "last_checkpoint", (time, time))
    assert not restart.should_resume(checkpointer, resume=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not restart.should_resume(checkpointer, resume=False), "nothing was saved since"
    save(checkpointer, "model_0000001", time)
    assert restart.should_resume(checkpointer, resume=False)
    checkpointer.resume_or_load("", resume=True)
    save(checkpointer, "model_0000002", time)
    assert restart.should_resume(checkpointer, resume=False), "a job that resumed once"


def test_a_new_job_begins_anew_and_what_was_asked_for_holds(checkpointer, monkeypatch):
    assert restart.should_resume(checkpointer, resume=True)
    assert not restart.should_resume(checkpointer, resume=False)
    checkpointer.save("model_0000001")
    assert not restart.should_resume(checkpointer, resume=False), "typed again: a job of its own"
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    assert not restart.should_resume(checkpointer, resume=False)
    assert restart.should_resume(checkpointer, resume=True)


def test_a_job_with_an_id_resumes_when_machines_join(checkpointer, monkeypatch):
    """torchrun counts no restart then, and a machine that comes later counts from 0."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-17")
    assert not restart.should_resume(checkpointer, resume=False)
    checkpointer.save("model_0000001")
    assert restart.should_resume(checkpointer, resume=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-18")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not restart.should_resume(checkpointer, resume=False), "its first start died early"


def test_a_damaged_checkpoint_of_a_restarted_job_is_not_passed_over(checkpointer, monkeypatch):
    assert not restart.should_resume(checkpointer, resume=False)
    checkpointer.save("model_0000001")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    Path(checkpointer.get_checkpoint_file()).write_bytes(b"PK")
    assert restart.should_resume(checkpointer, resume=False)
    with pytest.raises(CheckpointError, match="model_0000001"):
        checkpointer.resume_or_load("", resume=True)


def test_a_checkpoint_that_only_some_machines_see_stops_the_job(checkpointer, monkeypatch):
    monkeypatch.setattr(restart.comm, "all_gather", lambda value: [value, False])
    with pytest.raises(CheckpointError, match=r"processes 1 of 0\.\.1 do not see the last"):
        restart.should_resume(checkpointer, resume=True)


def test_processes_meet_under_a_name_that_no_earlier_start_had():
    """Among what a start left that broke down while meeting, and one that was under way."""
    store = HashStore()
    store.set("hiera_seg/session", "stale")
    store.set("hiera_seg/stale/2", "")
    timeout = timedelta(seconds=20)
    with ThreadPoolExecutor(3) as pool:
        late = [pool.submit(meet, store, rank, 3, timeout) for rank in (1, 2)]
        time.sleep(0.3)
        assert not any(future.done() for future in late)
        name = meet(store, 0, 3, timeout)
        assert [future.result() for future in late] == [name, name]
        again = [pool.submit(meet, store, rank, 3, timeout) for rank in (1, 2, 0)]
        names = {future.result() for future in again}
    assert len(names) == 1
    assert names != {name}


def test_processes_that_do_not_come_are_not_waited_for_forever():
    with pytest.raises(DistStoreError, match="process 1 waited 0:00:00.200000 for process 0"):
        meet(HashStore(), 1, 2, timedelta(seconds=0.2))
