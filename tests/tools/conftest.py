"""Command lines run in the process of the tests."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hiera_seg.cli import exit_on_error


@pytest.fixture
def start_tool(monkeypatch, capsys) -> Callable[[Path], Callable]:
    """Loads a script; the result runs it with options and gives exit code, stdout and stderr."""

    def load(path: Path) -> Callable[..., tuple[int, str, str]]:
        tool = runpy.run_path(str(path))

        def run(*options: object) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", [str(path), *map(str, options)])
            code = 0
            try:
                exit_on_error(tool["main"], tool["parse_args"]())
            except SystemExit as stop:
                code = stop.code or 0
            return code, *capsys.readouterr()

        return run

    return load
