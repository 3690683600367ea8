"""Measure the time and peak memory of pairs of functions.

Times are medians of rounds in which the two sides alternate, so a slowdown of the machine affects
both. Memory is the peak of one run above the memory in use before it. Each side is measured in its
own process, because a process returns little of its memory to the system.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

MIN_ROUNDS = 7
_MEBI = 1 << 20
_TOOLS = str(Path(__file__).resolve().parents[1])  # the folder of the package "benchmark"

# Makes the inputs on a device and returns the function to measure.
Maker = Callable[[torch.device], Callable[[], object]]


@dataclass(frozen=True)
class Comparison:
    """Two functions that are measured side by side.

    Attributes:
        name: name of the row.
        ours, other: make the functions of this package and of its counterpart.
        against: description of `other`.
        max_time: target for the ratio of the times; None for none.
        max_memory: target for the ratio of the peaks of extra memory; None for none.
        max_extra: target for the peak of extra memory of `ours`, in MiB; None for none.
        from_start: include the memory of the inputs, such as a model and its weights.
    """

    name: str
    ours: Maker
    other: Maker
    against: str
    max_time: float | None = None
    max_memory: float | None = None
    max_extra: float | None = None
    from_start: bool = False


@dataclass(frozen=True)
class Result:
    """The medians of a comparison in seconds and MiB; ratios are `ours` divided by `other`."""

    name: str
    against: str
    seconds: float
    other_seconds: float
    time_ratio: float
    max_time: float | None
    memory: float | None
    other_memory: float | None
    memory_ratio: float | None
    max_memory: float | None
    max_extra: float | None

    @property
    def passed(self) -> bool:
        pairs = (
            (self.time_ratio, self.max_time),
            (self.memory_ratio, self.max_memory),
            (self.memory, self.max_extra),
        )
        return all(value <= limit for value, limit in pairs if None not in (value, limit))


def measure(
    comparison: Comparison, key: str, device: torch.device, rounds: int, memory: bool
) -> Result:
    """Measure one comparison.

    Args:
        comparison: what to measure.
        key: "group:index", by which a child process finds the comparison.
        device: the device to run on.
        rounds: number of timed runs of each side, after two for warm-up.
        memory: whether to measure memory too, in two child processes.
    """
    seconds, other_seconds, ratio = _times(comparison, device, rounds)
    peaks = (None, None)
    if memory:
        peaks = tuple(peak_in_child(key, side, device) for side in ("ours", "other"))
    known = None not in peaks and peaks[1] > 0
    return Result(
        comparison.name,
        comparison.against,
        seconds,
        other_seconds,
        ratio,
        comparison.max_time,
        *peaks,
        peaks[0] / peaks[1] if known else None,
        comparison.max_memory,
        comparison.max_extra,
    )


def _times(comparison: Comparison, device, rounds: int) -> tuple[float, float, float]:
    sides = (comparison.ours(device), comparison.other(device))
    for run in sides * 2:  # warm up twice: caches, then the allocator
        _timed(run, device)
    pairs = []
    for index in range(rounds):
        order = (0, 1) if index % 2 == 0 else (1, 0)
        times = [0.0, 0.0]
        for side in order:
            times[side] = _timed(sides[side], device)
        pairs.append(times)
    return (
        statistics.median(ours for ours, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(ours / other for ours, other in pairs),
    )


def _timed(run: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_in_child(key: str, side: str, device: torch.device) -> float | None:
    """Return `peak_memory` of one side of a row, measured in its own process.

    That process returns every larger block of memory to the system when it is freed; if it reused
    its blocks, later runs would seem to need no memory.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmark.peak"]
    command += [key, side, str(device), str(torch.get_num_threads())]
    path = os.pathsep.join(filter(None, [_TOOLS, os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": str(1 << 17),
        "PYTHONPATH": path,
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{key} {side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_memory(make: Maker, device: torch.device, from_start: bool = False) -> float | None:
    """Return the peak memory of a run above the memory in use before it, in MiB.

    Args:
        make: makes the function to measure.
        device: the device to run on.
        from_start: measure from before `make`. Otherwise the second of two runs is measured from
            its beginning, because the first one also loads libraries.

    Returns:
        The peak; None if the system does not report it.
    """
    if device.type == "cuda":
        torch.zeros(1, device=device)
    before = _memory(device)
    run = make(device)
    run()
    gc.collect()
    if not from_start:
        before = _memory(device)
    if before is None:
        return None
    _begin_peak(device)
    run()
    return _peak(device) - before


def _begin_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _memory(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / _MEBI
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    return _resident("VmRSS") / 1024


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MEBI
    return _resident("VmHWM") / 1024


def _resident(name: str) -> int:
    """Return a value of /proc/self/status in KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))


def table(results: list[Result]) -> str:
    """Format the results as a table."""
    from tabulate import tabulate

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    rows = [
        [
            result.name,
            result.against,
            number(1000 * result.seconds, 1),
            number(1000 * result.other_seconds, 1),
            number(result.time_ratio, 2),
            number(result.max_time, 2),
            number(result.memory, 0),
            number(result.other_memory, 0),
            number(result.memory_ratio, 2),
            number(result.max_memory, 2)
            or number(result.max_extra, 0) + " MiB" * bool(result.max_extra),
            "yes" if result.passed else "NO",
        ]
        for result in results
    ]
    headers = ["ours", "against", "ms", "ms against", "ratio", "at most"]
    headers += ["MiB", "MiB against", "ratio", "at most", "met"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def as_rows(results: list) -> list[dict]:
    """Return results, with whether each meets its targets, or points of a sweep as plain data."""
    met = [{"passed": row.passed} if hasattr(row, "passed") else {} for row in results]
    return [asdict(row) | more for row, more in zip(results, met, strict=True)]
