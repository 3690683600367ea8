"""Create the output folder of a run, and lock it against a second run."""

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

LOCK = "run.lock"  # file in the folder while a run writes there; it describes the holder
# Seconds that a restarted job waits for the lock of its earlier attempt. An NFSv4 server keeps the
# locks of a lost machine for its lease time, by default 90 s (RFC 8881, section 8.3).
_PATIENCE = 100.0
_POLL = 0.2
_held: dict[str, int] = {}  # file descriptors of the locks of this process, by folder


def claim_output_folder(folder: str, key: str = "OUTPUT_DIR") -> None:
    """Create the folder of a run, and lock it until the main process of the job exits.

    All processes must call it. The lock is that of ``fcntl.lockf``, which the system releases
    whenever its process ends. A file ``run.lock`` that a killed run left behind is not locked, and
    the next run reuses it. Messages name the folder's config key.

    Raises:
        ConfigError: on all processes, if the name is not UTF-8, the folder cannot be written, or
            another run holds the lock.
    """
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{key} {os.fsencode(folder)!r}: the name is not UTF-8; choose another folder"
        ) from error
    problem = _claim(folder) if comm.is_main_process() else None
    problem = comm.all_gather(problem)[0]
    if problem:
        raise ConfigError(f"{key} {folder} {problem}")


def _claim(folder: str) -> str | None:
    """Create and lock a folder; return the reason if that is impossible."""
    path = os.path.join(folder, LOCK)
    try:
        os.makedirs(folder, exist_ok=True)
        if fcntl is None or os.path.realpath(folder) in _held:
            return None
        holder = _lock(path)
        if holder is not None and _is_of_this_job(holder):
            logger.warning(f"{folder} is locked by {holder[0]}, of an earlier attempt; waiting")
            deadline = time.monotonic() + _PATIENCE
            while holder is not None and time.monotonic() < deadline:
                time.sleep(_POLL)
                holder = _lock(path)
    except OSError as error:
        return f"cannot be written: {error.filename or path}: {error.strerror}"
    if holder is None:
        return None
    return f"is in use by {holder[0]} ({path}); choose another folder, or wait until that run ends"


def _lock(path: str) -> list[str] | None:
    """Try to lock a file; return None on success, else the lines that describe its holder."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.read(descriptor, 4096).decode(errors="replace")
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return text.splitlines() or ["another process"]
            logger.warning(f"{path}: cannot lock ({error.strerror}); continuing without a lock")
            os.remove(path)
            return None
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # its holder removed the file after it was opened here
    _held[os.path.realpath(os.path.dirname(path))] = descriptor
    atexit.register(_release, path, descriptor, os.getpid())
    since = datetime.now().isoformat(" ", "seconds")
    lines = (
        f"process {os.getpid()} on {socket.gethostname()}, since {since}",
        job_of_torchrun(),
        "This file is removed when the run ends. If that process has ended, nothing is locked.",
    )
    try:
        os.ftruncate(descriptor, 0)
        text = "\n".join((*lines, "")).encode()
        while text:  # a full disk writes a part before it raises
            text = text[os.write(descriptor, text) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    return None


def _is_of_this_job(holder: list[str]) -> bool:
    """Return whether the holder of a lock is an earlier attempt of this torchrun job."""
    job = job_of_torchrun()
    if job == "none":  # no --rdzv-id: only a restarted job can have an earlier attempt
        return os.environ["TORCHELASTIC_RESTART_COUNT"] != "0" and holder[1:2] == [job]
    return bool(job) and holder[1:2] == [job]


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _release(path: str, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:  # a forked worker does not hold the lock
        return
    if _is_at(descriptor, path):
        os.remove(path)  # before unlocking, after which it may be the file of another run
    os.close(descriptor)
