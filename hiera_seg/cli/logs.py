"""Log a run: briefly to the console, completely to log.txt in the output folder."""

import logging
import os
import re
import sys

from detectron2.utils import comm

LOGGERS = ("hiera_seg", "detectron2", "fvcore")

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_GREEN, _RED, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[0m"
_QUIET = ("detectron2.data.common",)  # logs how a dataset is serialized
_installed: list[logging.Handler] = []


def start_log(folder: str) -> None:
    """Log the messages of the package, Detectron2 and fvcore to the console and to ``log.txt``.

    Only the main process logs to the console, without the messages of Detectron2 and fvcore that
    are longer than a line, such as configs and models, and with colours only on a terminal. The
    file has all messages, without colours; every other process writes ``log.txt.rank<rank>``. The
    folder is created if it does not exist.

    Raises:
        OSError: the file cannot be written.
    """
    rank = comm.get_rank()
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "log.txt" + (f".rank{rank}" if rank else ""))
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(_PlainFormatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
    handlers = [file] if rank else [file, _Console(sys.stdout)]
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        others = [handler for handler in logger.handlers if handler not in _installed]
        logger.handlers[:] = [*others, *handlers]
    for handler in _installed:
        handler.close()
    _installed[:] = handlers


class _Console(logging.StreamHandler):
    def __init__(self, stream):
        super().__init__(stream)
        colors = stream.isatty() and "NO_COLOR" not in os.environ
        self.setFormatter(_ConsoleFormatter(colors))
        self.addFilter(_is_for_console)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # continue after `| head` has ended
            super().handleError(record)


class _PlainFormatter(logging.Formatter):
    def __init__(self, text: str):
        super().__init__(text, datefmt="%m/%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return _ANSI.sub("", super().format(record))


class _ConsoleFormatter(_PlainFormatter):
    def __init__(self, colors: bool):
        self._colors = colors
        super().__init__("[%(asctime)s %(name)s]: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        name, message = record.name, record.getMessage()
        if not _is_ours(record) and "\n" in message:
            message = f"{message.splitlines()[0]} ... (the rest is in log.txt)"
        if record.levelno >= logging.WARNING:
            message = f"{record.levelname} {message}"
        short = logging.makeLogRecord({**vars(record), "msg": message, "args": ()})
        short.name = re.sub(r"^detectron2\b", "d2", name)
        text = super().format(short)
        if not self._colors:
            return text
        head, _, body = text.partition("]: ")
        if record.levelno >= logging.WARNING:
            body = body.replace(record.levelname, f"{_RED}{record.levelname}{_RESET}", 1)
        return f"{_GREEN}{head}]:{_RESET} {body}"


def _is_for_console(record: logging.LogRecord) -> bool:
    if getattr(record, "file_only", False):
        return False
    if record.levelno >= logging.WARNING or _is_ours(record):
        return True
    return record.name not in _QUIET and "\n" not in record.getMessage()


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.startswith("hiera_seg")
