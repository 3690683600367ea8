"""How a command line ends: one clear line for an error that a user can mend."""

import errno
import io
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable

from detectron2.utils import comm

from hiera_seg.compat import lost_contact
from hiera_seg.engine.expected_errors import expected_error
from hiera_seg.engine.writers import raise_disk_failures
from hiera_seg.errors import ConfigError

# What all processes find wrong, the first one says; whatever started them ends the others while
# they wait so many seconds, and long before one that only lost its peers has a word.
_PATIENCE = 4.0
_PATIENCE_WITHOUT_PEERS = 10.0
_SIGPIPE = 128 + 13  # what a shell reports for a program that such a signal has ended


def exit_on_error(main: Callable, *args: object) -> None:
    """Call ``main(*args)``; an expected error is printed as one line and ends the process.

    Exit codes: 1 for a run that failed (data, trees, checkpoints, a full disk, a loss that is not
    finite, a process of the job that is gone), 2 for a command line or config that can not work,
    130 for Ctrl-C, 141 without a word where the reader of stdout is gone (``| head``). Anything
    else is a bug and keeps its traceback. What the terminal's encoding lacks, of trees and of
    names, is printed as "?".
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    raise_disk_failures()
    try:
        main(*args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            sys.exit(_SIGPIPE)
        expected = expected_error(error)
        if expected is not None:
            _exit(expected, 2 if isinstance(expected, ConfigError) else 1)
        if not lost_contact(error):
            raise
        time.sleep(_PATIENCE_WITHOUT_PEERS)
        reason = str(error).strip().splitlines()[0]
        _exit(
            "lost contact with another process of this job, see what it said; one that said "
            f"nothing may have hung for longer than DIST_TIMEOUT ({reason})"
        )


def prepare_file(path: str | os.PathLike, option: str) -> None:
    """Make the folder of a file that a command line will write: now, not after all its work.

    Args:
        path: the file.
        option: which names it, for the message.

    Raises:
        ConfigError: it can not be written.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{option} {path} is a folder; name a file in it")
    prepare_folder(os.path.dirname(path) or ".", option)


def prepare_folder(folder: str | os.PathLike, option: str) -> None:
    """Make a folder that a command line will write to; arguments as of :func:`prepare_file`."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        reason = "it, or what it lies in, is a file"
        if error.errno not in (errno.EEXIST, errno.ENOTDIR):
            reason = error.strerror
        raise ConfigError(f"{option}: the folder {folder} can not be made: {reason}") from error
    try:  # permissions alone do not tell
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option}: the folder {folder} can not be written: {error.strerror}"
        ) from error


def _reader_is_gone() -> bool:
    """Whether nobody reads stdout any more, as after ``| head``; what is left goes nowhere then."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # no file of the system
        return False
    poll = select.poll()
    poll.register(stdout, 0)  # errors are always reported
    gone = bool(poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone


def _exit(error: Exception | str, code: int = 1) -> None:
    text = " ".join(str(error).split())
    rank, world_size = comm.get_rank(), comm.get_world_size()
    if rank > 0:
        time.sleep(_PATIENCE)
        text = f"process {rank} of 0..{world_size - 1}: {text}"
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(code)
