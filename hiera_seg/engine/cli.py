"""How a command line ends: one clear line for an error that a user can mend."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from hiera_seg.config import ConfigError
from hiera_seg.data import DatasetError
from hiera_seg.engine.checkpoint import CheckpointError
from hiera_seg.hierarchy import HierarchyError

FAILURES = (DatasetError, HierarchyError, CheckpointError, FloatingPointError)


def exit_on_error(main: Callable, *args: object) -> None:
    """Call ``main(*args)``; an expected error is printed as one line and ends the process.

    Exit codes: 1 for a run that failed (data, trees, checkpoints, a loss that is not finite),
    2 for a command line or config that can not work, 130 for Ctrl-C. Anything else is a bug and
    keeps its traceback.
    """
    try:
        main(*args)
    except ConfigError as error:
        _exit(error, 2)
    except FAILURES as error:
        _exit(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Within it Detectron2's trainer logs an expected error without its traceback."""

    def shorten(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (*FAILURES, ConfigError)):
            record.msg, record.args, record.exc_info = f"Training failed: {error}", (), None
        return True

    trainer = logging.getLogger("detectron2.engine.train_loop")
    trainer.addFilter(shorten)
    try:
        yield
    finally:
        trainer.removeFilter(shorten)


def _exit(error: Exception, code: int) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)
