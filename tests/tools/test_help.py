"""``--help`` of every command line is quick: what it imports, and that its choices are right."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from benchmark import GROUPS, harness
from hiera_seg.checkpoint.convert import CONVERTERS
from hiera_seg.checkpoint.unpickle import SWITCH
from hiera_seg.cli import arguments
from hiera_seg.data.images import EXIF_CHOICES
from hiera_seg.inference.export import SUFFIXES

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = sorted(REPOSITORY.glob("tools/*.py"))
TOOLS.append(REPOSITORY / "projects" / "LazyHSSN" / "lazyconfig_train_net.py")
SLOW = {"torch", "torchvision", "detectron2", "fvcore", "scipy", "cv2", "pycocotools", "timm"}

HELP = """
import os, runpy, sys
sys.path.insert(0, sys.argv.pop(1))
sys.argv = [sys.argv[1], "--help"]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def imported_by(code: str, *words: object) -> tuple[str, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    text, _, modules = done.stdout.rpartition("imported ")
    return text, set(modules.split())


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_help_imports_nothing_slow(tool):
    text, modules = imported_by(HELP, REPOSITORY, tool)
    assert text.startswith("usage: ")
    assert not modules & SLOW


def test_the_package_and_its_command_lines_import_nothing_slow():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hiera_seg.cli, hiera_seg.hierarchy; "
        "print('imported', *{name.partition('.')[0] for name in sys.modules})"
    )
    _, modules = imported_by(code, REPOSITORY)
    assert "hiera_seg" in modules and not modules & SLOW


def load(name: str):
    """Import a tool, which may have the name of a package beside it."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", REPOSITORY / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_choices_are_those_of_the_library():
    assert load("export_model").FORMATS == tuple(SUFFIXES)
    assert load("benchmark").GROUPS == tuple(GROUPS)
    assert load("benchmark").MIN_ROUNDS == harness.MIN_ROUNDS
    pytest.importorskip("cv2", reason="writing predictions needs OpenCV")
    from hiera_seg.inference.predictions import KINDS

    assert load("demo").KINDS == KINDS
    parser = arguments.tool_parser("")
    arguments.add_exif(parser)
    arguments.add_unsafe_pickle(parser)
    choices = {option: action.choices for option, action in parser._option_string_actions.items()}
    assert choices["--exif"] == EXIF_CHOICES and SWITCH in choices


def test_projects_of_checkpoints_are_those_of_the_library(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", "--from", "nothing", "in", "out"])
    with pytest.raises(SystemExit):
        load("convert_checkpoint").parse_args()
    (listed,) = re.findall(r"choose from (.*)\)", capsys.readouterr().err)
    assert sorted(listed.replace("'", "").split(", ")) == sorted(CONVERTERS)


def test_a_training_has_every_option_of_detectron2():
    ours = {action.dest: action for action in arguments.argument_parser()._actions}
    for action in default_argument_parser()._actions:
        found = ours[action.dest]
        assert (found.option_strings, found.nargs) == (action.option_strings, action.nargs)
        assert found.default == action.default or action.dest == "dist_url"
