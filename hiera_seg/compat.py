"""Hide the differences between Detectron2 0.6 and main, and between versions of torch.

Where Detectron2 0.6 (the last release) and main differ, and it matters here:

- 0.6 keeps the process group of a machine in ``comm._LOCAL_PROCESS_GROUP`` and lets only its own
  ``launch`` set it; main has ``comm.create_local_process_group``.
- ``SimpleTrainer`` asks for the data iterator when it is made (0.6) or at the first step (main,
  where ``_data_loader_iter`` is a read-only property).
- Main calls ``after_backward`` of hooks, which a step that replaces ``run_step`` has to do itself.
- ``ShapeSpec`` is a named tuple (0.6) or a dataclass (main): only its attributes are read.
- ``DefaultTrainer.state_dict`` leaves the optimizer out (0.6) or has it in ``_trainer`` (main).
- Backbones of main specify padding by ``padding_constraints``, a read-only property; the ViTs
  there do so by it alone, without ``size_divisibility``.
- ``DetectionCheckpointer`` of main reads ``?matching_heuristics=True`` behind a path; the
  checkpointer of this package does so in both.
- ``SemSegEvaluator`` of main adds ``BoundaryIoU-<class>`` and ``min(IoU, B-Iou)-<class>`` to its
  results, which ``HieraSemSegEvaluator`` does not compute.

``tests/engine/as_detectron2_main.py`` patches the first four into 0.6 and runs the package.

Importing this module without Detectron2 says how to install it; the packages that need Detectron2
import it first.
"""

import importlib.util
import inspect
import math
import warnings
from datetime import timedelta

import torch

if importlib.util.find_spec("detectron2") is None:
    raise ImportError(
        "Detectron2 is not installed: run `python tools/install_detectron2.py` in a checkout of "
        "hiera_seg, or install it as its own documentation says"
    )

with warnings.catch_warnings():
    # Detectron2 and fvcore call torch.jit.script, which torch 2.9 calls deprecated: warnings at
    # every start that a user can do nothing about. Whoever imports these later finds them loaded.
    warnings.simplefilter("ignore", FutureWarning)
    import detectron2.modeling  # noqa: F401


# What torch raises where processes of a job do not reach each other: from 2.1 on one family, of
# which 2.0 has DistBackendError alone; its stores raise others, which say one of _OF_STORES.
DistStoreError = getattr(
    torch.distributed, "DistStoreError", type("DistStoreError", (RuntimeError,), {})
)
_DIST_ERRORS = (
    DistStoreError,
    getattr(torch.distributed, "DistBackendError", DistStoreError),
    getattr(torch.distributed, "DistError", DistStoreError),
)
_OF_STORES = (
    "socket has failed", "socket has timed out", "Socket Timeout", "Connection reset by peer",
    "Broken pipe",
)  # fmt: skip


def lost_contact(error: Exception) -> bool:
    """Whether an error only says that a process at the other end is gone, silent, or never came."""
    if isinstance(error, _DIST_ERRORS):
        return True
    text = str(error)
    if not hasattr(torch.distributed, "DistError") and type(error) in (RuntimeError, TimeoutError):
        if any(part in text for part in _OF_STORES):
            return True
    # gloo raises plain RuntimeErrors, which name a file of its source
    return "gloo/" in text


def has_key(store: "torch.distributed.Store", key: str) -> bool:
    """Whether a store holds a key, without waiting for it; ``Store.check`` came with torch 2.1."""
    if hasattr(store, "check"):
        return store.check([key])
    absent = "-"  # written only where it stands already
    return store.compare_set(key, absent, absent) != absent.encode()


def exports_any_size() -> bool:
    """Whether ``torch.export`` is there and finds out which sizes may vary (from torch 2.6 on)."""
    dim = getattr(getattr(torch, "export", None), "Dim", None)
    return hasattr(dim, "AUTO")


def make_object_group(timeout: timedelta) -> None:
    """Make the group in which ``comm.gather`` and the like send objects, with a timeout.

    Detectron2 makes it itself at first use where the default group is of nccl, but always with 30
    minutes.

    Args:
        timeout: how long processes wait for each other in it.
    """
    from detectron2.utils import comm

    if torch.distributed.get_backend() == "nccl":
        group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        comm._get_global_gloo_group = lambda: group


def create_local_process_group(processes_per_machine: int) -> None:
    """Tell Detectron2 which processes share this machine, after ``init_process_group``.

    Args:
        processes_per_machine: how many; the same number on every machine.
    """
    from detectron2.utils import comm

    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_per_machine)
        return
    world_size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    for first in range(0, world_size, processes_per_machine):
        ranks = list(range(first, first + processes_per_machine))
        group = torch.distributed.new_group(ranks)  # every process has to make every group
        if rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def after_backward(trainer: object) -> None:
    """Call the hooks that Detectron2's main runs between gradients and step."""
    if hasattr(trainer, "after_backward"):
        trainer.after_backward()


def padding_of(backbone: torch.nn.Module) -> tuple[int, int]:
    """How a backbone wants images padded, by ``size_divisibility`` and ``padding_constraints``.

    Returns:
        (what height and width are to be multiples of, 0 or 1 for anything; the side of the squares
        that images are to be padded to, 0 for none).
    """
    constraints = getattr(backbone, "padding_constraints", {})
    # Main's ViTs leave a letter out of the key that its documentation has.
    wanted = [constraints.get(key, 0) for key in ("size_divisibility", "size_divisiblity")]
    step = math.lcm(*(max(n, 1) for n in (backbone.size_divisibility, *wanted)))
    return step, constraints.get("square_size", 0)


def has_event_storage() -> bool:
    """Return whether a Detectron2 trainer is running; 0.6 has no such function."""
    from detectron2.utils import events

    return bool(events._CURRENT_STORAGE_STACK)


def grad_scaler(device_type: str, enabled: bool) -> "torch.amp.GradScaler":
    """A gradient scaler for a device type; ``torch.amp.GradScaler`` came with torch 2.3."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device_type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled and device_type == "cuda")


def without_buffer_sync() -> dict[str, bool]:
    """The option of DDP that leaves buffers alone in forward; torch 2.13 gave it a new name."""
    parameters = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    new = "forward_sync_buffers"
    return {new if new in parameters else "broadcast_buffers": False}
