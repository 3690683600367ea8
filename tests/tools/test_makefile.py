"""make setup: which environment it installs into. Python is a script here that notes its calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NEEDS = (
    *(f"requirements/{name}.txt" for name in ("base", "demo", "dev")),
    "setup.py",
    "pyproject.toml",
)
PYTHON = """#!/bin/sh
echo "$0 $*" >> calls
case "$*" in
    --version) echo "Python 3.$MINOR";;
    "-c import sys; sys.exit(sys.version_info < (3, 11))") [ "$MINOR" -ge 11 ];;
    *find_spec*) [ -e "$(dirname "$0")/torch" ];;
    *" --no-input --version") [ ! -e "$(dirname "$0")/no_pip" ];;
    "-m venv "*)
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && rm -f "$3/bin/no_pip" && [ -z "$FAIL" ];;
esac
"""


@pytest.fixture
def folder(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for name in (*NEEDS, "tools/install_detectron2.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("wheel==1\n")
    add_python(tmp_path / "python")
    return tmp_path


def add_python(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON)
    path.chmod(0o755)


def make(folder: Path, *options: str, minor: int = 11, fail: str = "") -> tuple[int, str, str]:
    """Exit code, what was said of errors, and the calls of Python."""
    done = subprocess.run(
        ["make", f"PYTHON={folder}/python", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "MINOR": str(minor), "FAIL": fail},
    )
    calls = folder / "calls"
    said = calls.read_text() if calls.exists() else ""
    calls.unlink(missing_ok=True)
    return done.returncode, done.stderr, said


def test_an_environment_is_made_once_and_then_left_alone(folder):
    code, _, calls = make(folder, "setup")
    assert code == 0 and "-m venv .venv" in calls and ".venv/bin/python -m pip" in calls
    assert make(folder, "setup") == (0, "", "")
    os.utime(folder / "setup.py", (2e9, 2e9))
    code, _, calls = make(folder, "setup")
    assert code == 0 and "-m venv" not in calls and "install_detectron2.py" in calls


def test_the_demo_installs_nothing_that_tests_alone_need(folder):
    code, _, calls = make(folder, "demo")
    assert code == 0 and "requirements/demo.txt" in calls and "requirements/dev.txt" not in calls
    code, _, calls = make(folder, "setup")
    assert code == 0 and "requirements/dev.txt" in calls and "install_detectron2.py" not in calls


def test_an_environment_of_the_users_is_not_changed_unasked(folder):
    add_python(folder / ".venv/bin/python")
    (folder / ".venv/bin/torch").touch()
    code, error, calls = make(folder, "setup")
    assert code == 2 and "pip" not in calls
    assert error.startswith(".venv has a torch that make has not put there: make VENV=.venv insta")
    assert make(folder, "distclean")[0] == 0 and (folder / ".venv/bin/python").exists()
    code, _, calls = make(folder, "setup", "VENV=.venv")
    assert code == 0 and "pip" in calls and "-m venv" not in calls
    assert make(folder, "setup")[0] == 0, "it is ready now"


def test_a_bare_environment_of_the_users_is_filled(folder):
    add_python(folder / ".venv/bin/python")
    code, _, calls = make(folder, "setup")
    assert code == 0 and "-m venv" not in calls and " install --quiet " in calls


@pytest.mark.parametrize("options", [[], ["VENV=.venv"]])
def test_an_older_python_is_refused_in_an_environment_too(folder, options):
    add_python(folder / ".venv/bin/python")
    (folder / ".venv/made_by_make").touch()
    code, error, calls = make(folder, "setup", *options, minor=10)
    assert code == 2 and "pip" not in calls
    assert error.startswith("Python 3.11 or newer is needed, and .venv has Python 3.10; take anoth")


def test_a_half_made_environment_is_gone_on_with(folder):
    add_python(folder / ".venv/bin/python")  # the installation was interrupted
    (folder / ".venv/made_by_make").touch()
    code, _, calls = make(folder, "setup")
    assert code == 0 and "-m venv" not in calls and " install --quiet " in calls
    (folder / ".venv/ready_for_demo").unlink()
    (folder / ".venv/bin/no_pip").touch()  # the making of the environment was
    code, _, calls = make(folder, "setup")
    assert code == 0 and "-m venv .venv" in calls


def test_what_could_not_be_made_is_removed_and_what_was_there_is_not(folder):
    assert make(folder, "setup", fail="yes")[0] == 2
    assert not (folder / ".venv").exists()
    (folder / "mine").mkdir()
    assert make(folder, "setup", "VENV=mine", fail="yes")[0] == 2
    assert (folder / "mine").exists()


def test_distclean_removes_what_make_made(folder):
    make(folder, "setup")
    assert make(folder, "distclean")[0] == 0
    assert not (folder / ".venv").exists()


def test_results_trains_the_config_that_is_named(folder):
    config = "configs/CamVid11/hssn_lite0.yaml"
    code, _, calls = make(folder, "results", f"RESULTS_CONFIG={config}", "RESULTS_OPTS=SEED 3")
    assert code == 0 and f"train_net.py --config-file {config} SEED 3" in calls
    _, _, calls = make(folder, "results")
    default = calls.rpartition("--config-file ")[2].split()[0]
    assert (REPOSITORY / default).is_file()
