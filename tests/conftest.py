"""Settings and fixtures of all tests: one thread each, nothing downloaded, no GPU needed."""

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported, and inherited by the processes that tests start: tensors here are so
# small that threads cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.helpers import (  # noqa: E402
    REPOSITORY,
    TOOLS,
    forget_datasets,
    registered_datasets,
)

pytest_plugins = ["tests.tiny_street"]

torch.set_num_threads(1)

# Timing on a shared machine says nothing about a property; in CI the same examples every time.
settings.register_profile("hiera_seg", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("hiera_seg")

SHARED = REPOSITORY.parent / "shared"


def _folder_or_skip(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        pytest.skip(f"needs {what}: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_datasets() -> Path:
    """Folder of real datasets: $DETECTRON2_DATASETS, or shared/datasets beside the repository."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS") or SHARED / "datasets")
    return _folder_or_skip(folder, "real datasets (set DETECTRON2_DATASETS)")


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """Folder of values computed by the reference implementation, beside the repository."""
    return _folder_or_skip(SHARED / "golden", "the reference values")


def _forget_new_datasets() -> Iterator[None]:
    """Forget the datasets that are registered meanwhile."""
    before = registered_datasets()
    yield
    forget_datasets(before)


_of_a_module = pytest.fixture(autouse=True, scope="module")(_forget_new_datasets)
_of_a_test = pytest.fixture(autouse=True)(_forget_new_datasets)


@pytest.fixture
def start_tool(monkeypatch, capsys) -> Callable[..., Callable[..., tuple[int, str, str]]]:
    """A function: a script below tools/ -> one that runs it: options -> code, stdout, stderr."""

    def start(script: str | Path) -> Callable[..., tuple[int, str, str]]:
        path = str((TOOLS / script).with_suffix(".py"))

        def run(*options: object) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", [path, *map(str, options)])
            code = 0
            try:
                runpy.run_path(path, run_name="__main__")
            except SystemExit as stop:
                code = stop.code or 0
            return code, *capsys.readouterr()

        return run

    return start


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """A function that writes a clip with OpenCV: frame i is grey of value 30 + 20 i."""

    def write(path: Path, num_frames: int = 5, size: tuple = (40, 56), fps: float = 8) -> Path:
        from hiera_seg.data.opencv import quiet_opencv

        cv2 = quiet_opencv("the test")
        codec = {".mp4": "mp4v", ".avi": "MJPG"}[path.suffix]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, size[::-1])
        if not writer.isOpened():
            pytest.skip(f"this OpenCV cannot write {codec} videos")
        for i in range(num_frames):
            writer.write(np.full((*size, 3), 30 + 20 * i, np.uint8))
        writer.release()
        return path

    return write
