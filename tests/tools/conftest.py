"""What tests of several tools share: a user's own module."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def user_module(tmp_path, monkeypatch) -> Iterator[Callable[[str, str], Path]]:
    """A function that writes a module, for --import, into the current folder of the test."""
    names = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name: str, text: str) -> Path:
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        return tmp_path

    yield write
    for name in names:
        sys.modules.pop(name, None)
