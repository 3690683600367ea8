"""Recognize the errors that a user can fix, and describe each in one line."""

import contextlib
import errno
import logging
import re
import sys
import threading
from collections.abc import Iterator

from hiera_seg.compat import lost_contact
from hiera_seg.disk import discard_pending
from hiera_seg.errors import CheckpointError, ConfigError, DatasetError, HierarchyError

FAILURES = (DatasetError, HierarchyError, CheckpointError, FloatingPointError)
# Problems of a disk or folder; other OSErrors are bugs
DISK_FAILURES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO
}  # fmt: skip

# Messages of torch.utils.data, and of batch, group and synchronized batch norm
_LOST_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) .*")
_ONE_VALUE = "Expected more than 1 value per channel when training"

_report_in_thread, _report_in_handler = threading.excepthook, logging.Handler.handleError


def expected_error(error: BaseException) -> Exception | None:
    """Return the error to print in one line, or None if `error` is a bug.

    It is `error` itself if its message is for users, or an error that names what to change.
    """
    if isinstance(error, (*FAILURES, ConfigError)):
        return error
    text = str(error)
    if isinstance(error, RuntimeError) and (lost := _LOST_WORKER.match(text)):
        return DatasetError(
            f"{lost[0].strip()}; if the system killed it because memory ran out, lower "
            "DATALOADER.NUM_WORKERS; run the command again with --resume to continue from the last "
            "checkpoint"
        )
    if isinstance(error, ValueError) and _ONE_VALUE in text:
        return ConfigError(
            f"a norm layer has one value per channel in training ({text}); use a larger "
            "INPUT.CROP.SIZE, or SOLVER.IMS_PER_BATCH of 2 or more per process and per part of "
            "SOLVER.ACCUMULATION_STEPS, or set MODEL.RESNETS.NORM and MODEL.SEM_SEG_HEAD.NORM to "
            '"FrozenBN"'
        )
    if isinstance(error, OSError) and error.errno in DISK_FAILURES:
        return OSError(f"{error.filename or 'a file could not be written'}: {error.strerror}")
    return None


FILE_ONLY = {"file_only": True}  # `extra` of log records that are not for the console


@contextlib.contextmanager
def log_expected_errors() -> Iterator[None]:
    """Context manager: shorten the traceback that Detectron2's trainer logs for expected errors.

    The line goes to the log file only, because :func:`exit_on_error` prints it too.
    """

    def shorten(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        lost = error is not None and lost_contact(error)
        reason = str(error).strip().splitlines()[0] if lost else error and expected_error(error)
        if reason:
            record.msg, record.args, record.exc_info = f"Training failed: {reason}", (), None
            vars(record).update(FILE_ONLY)
        return True

    trainer = logging.getLogger("detectron2.engine.train_loop")
    trainer.addFilter(shorten)
    try:
        yield
    finally:
        trainer.removeFilter(shorten)


def raise_disk_failures() -> None:
    """Let a full or broken disk end this process with an error that names the file.

    By default a log handler prints a traceback for each of its lines and continues. The thread that
    writes tensorboard's file prints one as well, although its next call raises the error.
    """
    threading.excepthook, logging.Handler.handleError = _in_thread, _in_handler


def _in_thread(args: threading.ExceptHookArgs) -> None:
    if getattr(args.exc_value, "errno", None) not in DISK_FAILURES:
        _report_in_thread(args)


def _in_handler(handler: logging.Handler, record: logging.LogRecord) -> None:
    error, stream = sys.exc_info()[1], getattr(handler, "stream", None)
    if stream is None or getattr(error, "errno", None) not in DISK_FAILURES:
        _report_in_handler(handler, record)
        return
    discard_pending(stream)
    raise OSError(error.errno, error.strerror, str(stream.name)) from error
