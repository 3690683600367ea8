"""Kill a process again and again while it saves checkpoints; what is left has to load each time.

    python tests/engine/kill_while_saving.py [KILLS] [FOLDER]

Prints what it saw and ends with 1 at the first checkpoint that does not load, or holds a mixture.
"""

import os
import random
import signal
import sys
import tempfile
import time

import torch
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer


class Model(nn.Module):
    """1 MB in tensors that all hold one number: a mixture of two checkpoints would show."""

    def __init__(self, number: float = 0.0):
        super().__init__()
        for i in range(16):
            self.register_buffer(f"b{i}", torch.full((1 << 14,), float(number)))


def save_forever(folder: str, start: int) -> None:
    """Save checkpoint after checkpoint, as PeriodicCheckpointer keeps two of them."""
    while True:
        start += 1
        HieraCheckpointer(Model(start), folder).save(f"model_{start % 3}", iteration=start)


def check(folder: str) -> int:
    """Load the last checkpoint as a resumed run does; its number."""
    model = Model()
    extra = HieraCheckpointer(model, folder).resume_or_load("", resume=True)
    numbers = {int(value) for buffer in model.buffers() for value in buffer.unique()}
    assert numbers == {extra["iteration"]}, (numbers, extra)
    return extra["iteration"]


def main(kills: int, folder: str, seed: int = 0) -> None:
    draw = random.Random(seed)
    for _ in range(2):
        started = time.perf_counter()
        HieraCheckpointer(Model(), folder).save("model_0", iteration=0)
    one_save = time.perf_counter() - started

    last = cut = 0
    for kill in range(kills):
        child = os.fork()
        if child == 0:
            try:
                save_forever(folder, last)
            finally:
                os._exit(3)  # only an error gets here
        time.sleep(draw.uniform(0.2, 4) * one_save)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"the saving process ended by itself: {status}"
        unfinished = any(name.endswith(".tmp") for name in os.listdir(folder))
        cut += unfinished
        found = check(folder)
        assert found >= last, f"kill {kill}: {found} is older than {last}"
        last = found
    left = sorted(os.listdir(folder))
    assert len(left) <= 2 * (3 + 1), left  # of each file at most one unfinished
    print(f"{kills} kills, {cut} amid a file, {last} checkpoints saved, all loaded")


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    if len(sys.argv) > 2:
        main(count, sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(count, place)
