"""A file system that is really full."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts a file system of some kB; it returns its folder."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system takes root")
        if (done := subprocess.run(command, capture_output=True)).returncode != 0:
            pytest.skip(f"no file system of {size} kB here: {done.stderr.decode().strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)
