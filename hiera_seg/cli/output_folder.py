"""Claim the output folder of a run: make it, and lock it against a second run."""

import atexit
import errno
import logging
import os
import socket
import time
from datetime import datetime

from detectron2.utils import comm

from hiera_seg.engine.elastic import job_of_torchrun
from hiera_seg.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = "run.lock"  # in the folder while a run writes there: who holds it
# Seconds that a restarted job waits for the lock of its earlier start: an NFSv4 server keeps the
# locks of a lost machine for its lease time, 90 s by default (RFC 8881, section 8.3).
_PATIENCE = 100.0
_POLL = 0.2
_held: dict[str, int] = {}  # descriptors of the locks of this process, by folder


def claim_output_folder(folder: str, key: str = "OUTPUT_DIR") -> None:
    """Make the folder of a run, and lock it until the first process of the job ends.

    All processes have to call it. The lock is one of ``fcntl.lockf``, which the system releases
    when its process dies, however it dies. So a file ``run.lock`` that a killed run left behind
    locks nothing, and the next run takes it over.

    Args:
        folder: the output folder.
        key: the config key that names it, for messages.

    Raises:
        ConfigError: its name is not UTF-8, it cannot be written, or another run holds it; the same
            on all processes.
    """
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{key} {os.fsencode(folder)!r}: the name is not UTF-8, which logs and configs are "
            "written in; choose another folder"
        ) from error
    problem = _claim(folder) if comm.is_main_process() else None
    problem = comm.all_gather(problem)[0]
    if problem:
        raise ConfigError(f"{key} {folder} {problem}")


def _claim(folder: str) -> str | None:
    """Make and lock a folder; return why that is impossible."""
    path = os.path.join(folder, LOCK)
    try:
        os.makedirs(folder, exist_ok=True)
        if fcntl is None or os.path.realpath(folder) in _held:
            return None
        holder = _lock(path)
        if holder is not None and _is_of_this_job(holder):
            logger.warning(f"{folder} is held by {holder[0]}, of an earlier start; waiting for it")
            deadline = time.monotonic() + _PATIENCE
            while holder is not None and time.monotonic() < deadline:
                time.sleep(_POLL)
                holder = _lock(path)
    except OSError as error:
        return f"cannot be written: {error.filename or path}: {error.strerror}"
    if holder is None:
        return None
    return (
        f"is in use by {holder[0]} ({path}); choose another folder, or wait until that run has "
        "ended"
    )


def _lock(path: str) -> list[str] | None:
    """Try to lock a file; return None, or the lines in which its holder describes itself."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.read(descriptor, 4096).decode(errors="replace")
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return text.splitlines() or ["another process"]
            logger.warning(f"{path}: no lock is possible here ({error.strerror}); going without")
            os.remove(path)
            return None
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # its holder removed it while this process waited to open it
    _held[os.path.realpath(os.path.dirname(path))] = descriptor
    atexit.register(_release, path, descriptor, os.getpid())
    since = datetime.now().isoformat(" ", "seconds")
    lines = (
        f"process {os.getpid()} on {socket.gethostname()}, since {since}",
        job_of_torchrun(),
        "This file is removed when the run ends. If that process is gone, it locks nothing.",
    )
    try:
        os.ftruncate(descriptor, 0)
        text = "\n".join((*lines, "")).encode()
        while text:  # a full disk takes a part of it before it raises
            text = text[os.write(descriptor, text) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    return None


def _is_of_this_job(holder: list[str]) -> bool:
    """Whether the holder of a lock is an earlier start of this torchrun job."""
    job = job_of_torchrun()
    if job == "none":  # torchrun was given no id, and counts restarts on this machine alone
        return os.environ["TORCHELASTIC_RESTART_COUNT"] != "0" and holder[1:2] == [job]
    return bool(job) and holder[1:2] == [job]


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _release(path: str, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:  # a forked worker has no lock
        return
    if _is_at(descriptor, path):
        os.remove(path)  # before the lock goes: afterwards it may be another run's
    os.close(descriptor)
