"""End a command line: print one line for an error that a user can fix."""

import errno
import io
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable

from hiera_seg.cli.threads import let_threads_sleep
from hiera_seg.errors import ConfigError

# If all ranks raise the same error, only rank 0 should print it. Other ranks wait this many seconds
# before they print, during which the launcher kills them, also on a busy machine; a rank that lost
# contact waits longer.
_PATIENCE = 8.0
_PATIENCE_WITHOUT_PEERS = 16.0
_SIGPIPE = 128 + 13  # the exit code that a shell reports for SIGPIPE


def exit_on_error(main: Callable, *args: object) -> None:
    """Call ``main(*args)``; print an expected error as one line and exit.

    The exit code is 1 if the run failed (data, trees, checkpoints, a full disk, a loss that is not
    finite, a lost process), 2 if the command line or config is invalid, 130 for Ctrl-C, and 141,
    without a message, if the reader of stdout has exited (``| head``). Any other error is a bug and
    keeps its traceback. Characters that the terminal cannot encode are printed as "?".

    Args:
        main: the function to call.
        args: its arguments.
    """
    let_threads_sleep()
    # Imported here, because they import torch and Detectron2
    from hiera_seg.cli.expected_errors import (
        expected_error,
        log_expected_errors,
        raise_disk_failures,
    )
    from hiera_seg.compat import lost_contact

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    raise_disk_failures()
    try:
        with log_expected_errors():
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
            f"lost contact with another process of this job ({reason}); see its messages. If it "
            "has none, it may have been silent for longer than DIST_TIMEOUT"
        )


def prepare_file(path: str | os.PathLike, option: str) -> None:
    """Create the folder of an output file, and check that it is writable, before the work starts.

    Raises:
        ConfigError: it cannot be written; the message names the command-line option of the file.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{option} {path} is a folder; name a file in it")
    prepare_folder(os.path.dirname(path) or ".", option)


def prepare_folder(folder: str | os.PathLike, option: str) -> None:
    """Create an output folder and check that it is writable; see :func:`prepare_file`."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            reason = "it, or a part of its path, is a file"
        raise ConfigError(f"{option}: cannot create the folder {folder}: {reason}") from error
    try:  # permissions alone are not reliable
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option}: cannot write to the folder {folder}: {error.strerror}"
        ) from error


def _reader_is_gone() -> bool:
    """Return whether the reader of stdout has exited; if so, discard the remaining output."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # not a file of the system
        return False
    poll = select.poll()
    poll.register(stdout, 0)  # errors are always reported
    gone = bool(poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone


def _exit(error: Exception | str, code: int = 1) -> None:
    from detectron2.utils import comm

    text = " ".join(str(error).split())
    rank, world_size = comm.get_rank(), comm.get_world_size()
    if rank > 0:
        time.sleep(_PATIENCE)
        text = f"process {rank} of 0..{world_size - 1}: {text}"
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(code)
