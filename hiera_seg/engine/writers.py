"""Write the metrics of a run, with errors that name the file."""

import importlib.util
import logging
import os
import sys
import threading

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)

from hiera_seg.disk import discard_pending, naming
from hiera_seg.engine.expected_errors import DISK_FAILURES

logger = logging.getLogger(__name__)

_report_in_thread, _report_in_handler = threading.excepthook, logging.Handler.handleError


class MetricsFile(JSONWriter):
    """Write ``metrics.json``, with errors that name the file."""

    def __init__(self, path: str):
        super().__init__(path)
        self._path = path

    def write(self) -> None:
        try:
            with naming(self._path):
                super().write()
        except OSError:
            discard_pending(self._file_handle)
            raise


class TensorboardFile(TensorboardXWriter):
    """Write tensorboard events, with errors that name the file."""

    def __init__(self, folder: str):
        # The name of the file has the time and the process id
        self._path = os.path.join(folder, "events.out.tfevents.*")
        with naming(self._path):
            super().__init__(folder)

    def write(self) -> None:
        with naming(self._path):
            super().write()

    def close(self) -> None:
        with naming(self._path):
            super().close()


def build_writers(folder: str, max_iter: int) -> list[EventWriter]:
    """Build the writers of a run: console, ``metrics.json`` and, if installed, tensorboard."""
    os.makedirs(folder, exist_ok=True)
    writers = [CommonMetricPrinter(max_iter), MetricsFile(os.path.join(folder, "metrics.json"))]
    if importlib.util.find_spec("tensorboard") is None:
        logger.info("tensorboard is not installed: writing metrics.json and the log only")
        return writers
    return [*writers, TensorboardFile(folder)]


def raise_disk_failures() -> None:
    """Let a full or broken disk end this process with an error that names the file.

    By default a log handler prints a traceback for each of its lines and continues. The thread that
    writes tensorboard's file prints one as well, although its next call raises the error.
    """
    threading.excepthook, logging.Handler.handleError = _in_thread, _in_handler


def _in_thread(args: threading.ExceptHookArgs) -> None:
    if not _of_disk(args.exc_value):
        _report_in_thread(args)


def _in_handler(handler: logging.Handler, record: logging.LogRecord) -> None:
    error, stream = sys.exc_info()[1], getattr(handler, "stream", None)
    if stream is None or not _of_disk(error):
        _report_in_handler(handler, record)
        return
    discard_pending(stream)
    raise OSError(error.errno, error.strerror, str(stream.name)) from error


def _of_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FAILURES
