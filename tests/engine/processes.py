"""Train in processes that know the datasets of this one, and end them as a power cut would."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from hiera_seg.compat import create_local_process_group
from hiera_seg.engine import HieraTrainer


class Killer(HookBase):
    """Kill the process once a number of iterations is done, or in the evaluation after them."""

    def __init__(self, after_iteration: int | None = None, in_evaluation: int | None = None):
        self.after_iteration = after_iteration
        self.in_evaluation = in_evaluation

    def before_train(self):
        evaluate = HieraTrainer.run_evaluation

        def run_evaluation(trainer):
            if trainer.iter + 1 == self.in_evaluation:
                os.kill(os.getpid(), signal.SIGKILL)
            return evaluate(trainer)

        HieraTrainer.run_evaluation = run_evaluation

    def after_step(self):
        if self.trainer.iter + 1 == self.after_iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def train(cfg: CfgNode, *, resume: bool = False, **kill: int) -> HieraTrainer:
    trainer = HieraTrainer(cfg)
    if kill:
        trainer.register_hooks([Killer(**kill)])
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def train_in_a_process(cfg: CfgNode, **options: object) -> int:
    """Call :func:`train` in a process; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(cfg,), kwargs=options)
    process.start()
    process.join(timeout=200)
    return process.exitcode


def in_processes(function: Callable, *args: object, folder: Path, count: int = 2) -> list:
    """Call ``function(*args)`` in gloo processes that meet in a folder; return their results."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_member, args=(rank, count, folder, function, args))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _member(rank: int, count: int, folder: Path, function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    create_local_process_group(count)
    torch.save(function(*args), folder / f"{rank}.pt")
    dist.destroy_process_group()
