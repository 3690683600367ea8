"""Name the cause of errors that torch and the system raise, so that one line is enough."""

import errno
import re

from hiera_seg.config import CheckpointError, ConfigError
from hiera_seg.data import DatasetError
from hiera_seg.hierarchy import HierarchyError

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
