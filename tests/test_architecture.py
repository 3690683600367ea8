"""The floors of the library: what may import what, and what may be absent."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, run_python

PACKAGE = REPOSITORY / "hiera_seg"

# A module imports from lower floors and from its own room only.
FLOORS = {
    "errors": 0,
    "compat": 0,
    "disk": 0,
    "hierarchy": 1,
    "model_zoo": 2,
    "layers": 2,
    "metrics": 2,
    "losses": 3,
    "config": 4,
    "checkpoint": 5,
    "data": 5,
    "modeling": 6,
    "evaluation": 7,
    "visualization": 7,
    "inference": 8,
    "report": 9,
    "engine": 10,
    "diagnostics": 11,
    "cli": 12,
}
WITHOUT_DETECTRON2 = ("hierarchy", "layers", "metrics", "losses")


def imported_modules(file: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join((*package, *filter(None, [node.module])))
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE)
MODULES += [PACKAGE / f"{name}.py" for name in ("compat", "disk", "errors")]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_only_from_lower_floors(file):
    room = room_of(file)
    for name in imported_modules(file):
        if name.startswith("hiera_seg."):
            other = name.split(".")[1]
            lower = other == room or FLOORS.get(other, -1) < FLOORS[room]
            assert lower, f"imports {name}"
        top = name.split(".")[0]
        assert top not in ("projects", "tests", "tools"), f"imports {name}"
        assert top != "detectron2" or room not in WITHOUT_DETECTRON2, f"imports {name}"


IMPORT_EACH = """
import importlib, socket, sys
absent, modules = map(str.split, sys.argv[1:])
sys.modules.update(dict.fromkeys(absent))  # None makes an import fail
socket.socket.connect = None
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        print(module, type(error).__name__, error, sep=": ")
"""


def import_errors(modules: Iterable[str], absent: Iterable[str]) -> list[str]:
    """Import modules in a new process where others are absent; return a line for each failure."""
    result = run_python("-c", IMPORT_EACH, " ".join(absent), " ".join(modules))
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_lower_floors_work_without_detectron2():
    modules = ["hiera_seg", *(f"hiera_seg.{room}" for room in WITHOUT_DETECTRON2)]
    assert import_errors(modules, absent=["detectron2"]) == []


def test_upper_floors_say_how_to_install_detectron2():
    modules = [f"hiera_seg.{room}" for room in ("config", "data", "modeling", "engine")]
    errors = import_errors(modules, absent=["detectron2"])
    assert [error.split(":")[0] for error in errors] == modules
    assert all("tools/install_detectron2.py" in error for error in errors), errors


def test_everything_imports_without_optional_packages_or_network():
    names = (file.relative_to(PACKAGE.parent).with_suffix("").parts for file in MODULES)
    modules = sorted(".".join(parts).removesuffix(".__init__") for parts in names)
    absent = ["timm", "tensorboard", "torch.utils.tensorboard", "onnx", "panopticapi"]
    assert import_errors(modules, absent) == []


def test_training_needs_no_opencv_and_no_plotly():
    assert import_errors(["hiera_seg.engine"], absent=["cv2", "plotly", "tensorboard"]) == []
