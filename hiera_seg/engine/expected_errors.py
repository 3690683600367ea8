"""Name the cause of errors that torch and the system raise, so that one line is enough."""

import contextlib
import errno
import logging
import re
from collections.abc import Iterator

from hiera_seg.compat import lost_contact
from hiera_seg.errors import CheckpointError, ConfigError, DatasetError, HierarchyError

FAILURES = (DatasetError, HierarchyError, CheckpointError, FloatingPointError)
# What the system reports of a disk or a folder; other errors of files are bugs
DISK_FAILURES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO
}  # fmt: skip

# Of torch.utils.data, and of torch.nn.functional: batch, group and synchronized batch norm
_LOST_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) .*")
_ONE_VALUE = "Expected more than 1 value per channel when training"


def expected_error(error: BaseException) -> Exception | None:
    """Return the error with which a run ends in one line; None for a bug.

    Args:
        error: one that a run ended with.

    Returns:
        The error itself, where its message is for users, or one that names what to change.
    """
    if isinstance(error, (*FAILURES, ConfigError)):
        return error
    text = str(error)
    if isinstance(error, RuntimeError) and (lost := _LOST_WORKER.match(text)):
        return DatasetError(
            f"{lost[0].strip()}; if the system killed it because memory ran out, lower "
            "DATALOADER.NUM_WORKERS (0 reads without workers). The same command with --resume "
            "resumes from the last checkpoint"
        )
    if isinstance(error, ValueError) and _ONE_VALUE in text:
        return ConfigError(
            f"a norm layer has one value per channel in training ({text}): use a larger "
            "INPUT.CROP.SIZE, or SOLVER.IMS_PER_BATCH of 2 or more per process and per part of "
            "SOLVER.ACCUMULATION_STEPS, or set MODEL.RESNETS.NORM and MODEL.SEM_SEG_HEAD.NORM to "
            '"FrozenBN"'
        )
    if isinstance(error, OSError) and error.errno in DISK_FAILURES:
        return OSError(f"{error.filename or 'a file could not be written'}: {error.strerror}")
    return None


FILE_ONLY = {"file_only": True}  # ``extra`` of a record that the console does not show


@contextlib.contextmanager
def log_expected_errors() -> Iterator[None]:
    """Context manager: Detectron2's trainer logs an expected error as a line without traceback.

    It goes to the log file alone, because :func:`exit_on_error` prints the same line at the end.
    """

    def shorten(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and lost_contact(error):
            error = str(error).strip().splitlines()[0]
        elif error is not None:
            error = expected_error(error)
        if error is not None:
            record.msg, record.args, record.exc_info = f"Training failed: {error}", (), None
            vars(record).update(FILE_ONLY)
        return True

    trainer = logging.getLogger("detectron2.engine.train_loop")
    trainer.addFilter(shorten)
    try:
        yield
    finally:
        trainer.removeFilter(shorten)
