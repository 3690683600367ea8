"""Choose the number of threads of a process, and how they wait for each other."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def let_threads_sleep() -> None:
    """Let idle OpenMP threads sleep after a short while, unless the environment sets how they wait.

    It must be called before torch is imported. By default an idle thread keeps a CPU busy for
    milliseconds. Beside another busy process it then delays the thread that it waits for, and an
    iteration takes several times as long (docs/performance.md).
    """
    given = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()
    if not given:
        os.environ["GOMP_SPINCOUNT"] = "1000"  # of GCC's runtime, in torch's Linux packages
        os.environ["KMP_BLOCKTIME"] = "0"  # milliseconds, of Intel's and LLVM's


def set_threads(number: int) -> None:
    """Set the number of threads of torch in this process.

    Args:
        number: of threads; 0 shares the CPUs that are available to this machine's processes of the
            job, unless OMP_NUM_THREADS is set. It does not depend on the load, because results
            with another number of threads differ by rounding.
    """
    import torch
    from detectron2.utils import comm

    if number == 0 and "OMP_NUM_THREADS" not in os.environ:
        number = max(available_cpus() // comm.get_local_size(), 1)
    if number > 0:
        torch.set_num_threads(number)


def available_cpus() -> int:
    """Return the number of CPUs for this process: by its affinity, and its control group's quota.

    torch reads the affinity only. In a container with a quota of a few CPUs, it starts a thread for
    each CPU of the machine.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.floor(min([allowed or 1, *_quotas()])))


def _quotas() -> Iterator[float]:
    """Yield the CPU quotas of the control groups of this process (Linux, versions 1 and 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be that of the host, of which only the root is visible
        group = _GROUPS / controllers / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError):
                if controllers:
                    parts = [(folder / f"cpu.cfs_{n}_us").read_text() for n in ("quota", "period")]
                else:
                    parts = (folder / "cpu.max").read_text().split()
                if parts[0] != "max" and int(parts[0]) > 0:
                    yield int(parts[0]) / int(parts[1])
