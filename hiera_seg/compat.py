"""Hide the differences between Detectron2 0.6 and main, and between versions of torch.

Differences of Detectron2 0.6 (the last release) and main that matter here:

- 0.6 keeps the process group of a machine in ``comm._LOCAL_PROCESS_GROUP`` and lets only its own
  ``launch`` set it; main has ``comm.create_local_process_group``.
- ``SimpleTrainer`` creates the data iterator in its constructor (0.6) or at the first step (main,
  where ``_data_loader_iter`` is a read-only property).
- Main calls ``after_backward`` of hooks; a subclass that replaces ``run_step`` has to do so itself.
- ``ShapeSpec`` is a named tuple (0.6) or a dataclass (main): only its attributes are read.
- ``DefaultTrainer.state_dict`` omits the optimizer (0.6) or has it in ``_trainer`` (main).
- Backbones of main specify padding by ``padding_constraints``, a read-only property; its ViTs use
  only this, without ``size_divisibility``.
- ``DetectionCheckpointer`` of main reads ``?matching_heuristics=True`` behind a path; the
  checkpointer of this package does so in both.
- ``SemSegEvaluator`` of main adds ``BoundaryIoU-<class>`` and ``min(IoU, B-Iou)-<class>`` to its
  results; ``HieraSemSegEvaluator`` computes the former by ``TEST.BOUNDARY_IOU`` alone.

``tests/engine/as_detectron2_main.py`` patches the first four into 0.6 and runs the package.

Every package that needs Detectron2 imports this module before it: without Detectron2 the import
fails with installation instructions, and with it some warnings of Detectron2's import are silenced.
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
        "hiera_seg, or follow Detectron2's installation instructions"
    )

with warnings.catch_warnings():
    # Detectron2 and fvcore call torch.jit.script, which is deprecated since torch 2.9. Users cannot
    # avoid these warnings, and later imports find the modules loaded.
    warnings.simplefilter("ignore", FutureWarning)
    import detectron2.modeling  # noqa: F401


# Errors of torch if processes of a job cannot reach each other. Before torch 2.1 there is only
# DistBackendError, and stores raise other errors with one of the texts _OF_STORES.
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
    """Return whether an error is a lost connection or a timeout between processes."""
    if isinstance(error, _DIST_ERRORS):
        return True
    text = str(error)
    if not hasattr(torch.distributed, "DistError") and type(error) in (RuntimeError, TimeoutError):
        if any(part in text for part in _OF_STORES):
            return True
    # gloo raises plain RuntimeErrors that name a source file of it.
    return "gloo/" in text


def has_key(store: "torch.distributed.Store", key: str) -> bool:
    """Return whether a store has a key, without waiting; ``Store.check`` is new in torch 2.1."""
    if hasattr(store, "check"):
        return store.check([key])
    absent = "-"  # is written only if it is the present value
    return store.compare_set(key, absent, absent) != absent.encode()


def exports_any_size() -> bool:
    """Return whether ``torch.export`` infers which sizes may vary (torch 2.6 or newer)."""
    dim = getattr(getattr(torch, "export", None), "Dim", None)
    return hasattr(dim, "AUTO")


def make_object_group(timeout: timedelta) -> None:
    """Create the process group in which ``comm.gather`` and others send objects, with a timeout.

    If the default group uses nccl, Detectron2 creates it at first use, always with 30 minutes.

    Args:
        timeout: how long processes wait for each other.
    """
    from detectron2.utils import comm

    if torch.distributed.get_backend() == "nccl":
        group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        comm._get_global_gloo_group = lambda: group


def create_local_process_group(processes_per_machine: int) -> None:
    """Create Detectron2's group of the processes on this machine, after ``init_process_group``.

    Args:
        processes_per_machine: number of processes, the same on every machine.
    """
    from detectron2.utils import comm

    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_per_machine)
        return
    world_size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    for first in range(0, world_size, processes_per_machine):
        ranks = list(range(first, first + processes_per_machine))
        group = torch.distributed.new_group(ranks)  # every process has to create every group
        if rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def after_backward(trainer: object) -> None:
    """Call the hooks that Detectron2's main runs between backward and optimizer step."""
    if hasattr(trainer, "after_backward"):
        trainer.after_backward()


def padding_of(backbone: torch.nn.Module) -> tuple[int, int]:
    """Return the image padding that a backbone needs.

    It is read from ``size_divisibility`` and ``padding_constraints``.

    Returns:
        (number of which height and width must be multiples; side of the squares to which images
        must be padded, 0 for none).
    """
    constraints = getattr(backbone, "padding_constraints", {})
    # Main's ViTs misspell the documented key.
    wanted = [constraints.get(key, 0) for key in ("size_divisibility", "size_divisiblity")]
    step = math.lcm(*(max(n, 1) for n in (backbone.size_divisibility, *wanted)))
    return step, constraints.get("square_size", 0)


def has_event_storage() -> bool:
    """Return whether a Detectron2 trainer is running; 0.6 has no such function."""
    from detectron2.utils import events

    return bool(events._CURRENT_STORAGE_STACK)


def grad_scaler(device_type: str, enabled: bool) -> "torch.amp.GradScaler":
    """Return a gradient scaler for a device type; ``torch.amp.GradScaler`` is new in torch 2.3."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device_type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled and device_type == "cuda")


def without_buffer_sync() -> dict[str, bool]:
    """Return the DDP option that disables buffer synchronization; torch 2.13 renamed it."""
    parameters = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    new = "forward_sync_buffers"
    return {new if new in parameters else "broadcast_buffers": False}


def has_fused_kernel(kind: type[torch.optim.Optimizer]) -> bool:
    """Return whether an optimizer has a fused kernel for CPUs, as SGD since torch 2.4."""
    try:
        kind([torch.zeros(1, requires_grad=True)], lr=1.0, fused=True)
    except (TypeError, RuntimeError):
        return False
    return True
