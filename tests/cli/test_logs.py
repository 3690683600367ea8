"""Test the log of a run: the messages on the console, and those in the file."""

import io
import logging
import sys

import pytest
from detectron2.engine.train_loop import SimpleTrainer  # noqa: F401  (has the logger of training)

from hiera_seg.cli.expected_errors import log_expected_errors
from hiera_seg.cli.logs import LOGGERS, start_log
from hiera_seg.errors import ConfigError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Starts a log; gives the stream of the console and what the file holds."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(x.handlers), x.propagate, x.level) for x in loggers]

    def start(stream: io.StringIO):
        monkeypatch.setattr(sys, "stdout", stream)
        start_log(str(tmp_path))
        return stream, (tmp_path / "log.txt").read_text

    monkeypatch.delenv("NO_COLOR", raising=False)
    yield start
    for logger, (handlers, logger.propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


def say_all() -> None:
    theirs, ours = logging.getLogger("fvcore.x"), logging.getLogger("hiera_seg.x")
    theirs.info("a whole\nmodel")
    theirs.info("\x1b[31mone line\x1b[0m")
    theirs.warning("missing:\n%s", "many names")
    ours.info("a\ntable")
    ours.warning("careful")


def test_the_console_is_short_and_the_file_whole(log):
    console, read = log(io.StringIO())
    say_all()
    shown, text = console.getvalue(), read()
    assert "model" not in shown and "many names" not in shown
    assert "one line" in shown and "WARNING missing:" in shown and "a\ntable" in shown
    assert "WARNING careful" in shown
    for part in ("a whole\nmodel", "one line", "missing:\nmany names", "a\ntable", "careful"):
        assert part in text
    assert "\x1b" not in shown + text


def test_colours_are_for_terminals(log, monkeypatch):
    console, read = log(Terminal())
    say_all()
    assert "\x1b[32m" in console.getvalue() and "\x1b" not in read()
    monkeypatch.setenv("NO_COLOR", "1")
    console, _ = log(Terminal())
    say_all()
    assert "\x1b" not in console.getvalue()


def test_a_second_log_takes_the_place_of_the_first(log, tmp_path):
    log(io.StringIO())
    console, read = log(io.StringIO())
    logging.getLogger("detectron2.x").info("once")
    assert console.getvalue().count("once") == read().count("once") == 1


def test_an_expected_error_of_training_is_for_the_file(log):
    console, read = log(io.StringIO())
    with log_expected_errors():
        try:
            raise ConfigError("a key")
        except ConfigError:
            logging.getLogger("detectron2.engine.train_loop").exception("Exception in training")
    assert console.getvalue() == "" and "Training failed: a key" in read()
    assert "Traceback" not in read()


def test_a_console_that_is_gone_ends_no_training(log):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    _, read = log(Gone())
    logging.getLogger("hiera_seg.x").info("still here")
    assert "still here" in read()
