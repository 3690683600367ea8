"""tools/show_hierarchy.py: the tree as text and as a picture, and its exit codes."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.helpers import REPOSITORY, TOOLS
from tests.messages import check_one_error

TOOL = TOOLS / "show_hierarchy.py"
# What every other tool does with its output
PRINTS_MUCH = "from hiera_seg.cli import exit_on_error; exit_on_error(print, 'x' * 200_000)"


@pytest.fixture
def show(start_tool):
    return start_tool("show_hierarchy")


def test_a_built_in_tree_is_printed_with_its_ids(show):
    code, out, err = show("lip")
    assert (code, err) == (0, "")
    assert "jumpsuits" in out and "[24]" in out


def test_a_file_is_drawn(show, tmp_path):
    (tmp_path / "tree.yaml").write_text("tree: {flat: [road, path], sky: null}")
    code, out, err = show(tmp_path / "tree.yaml", "--png", tmp_path / "new" / "tree.png")
    assert (code, err) == (0, "") and "road" in out
    with Image.open(tmp_path / "new" / "tree.png") as picture:
        assert picture.format == "PNG" and picture.width > 50 and picture.height > 50


@pytest.mark.parametrize("command", [[str(TOOL), "big.yaml"], ["-c", PRINTS_MUCH]])
def test_a_reader_that_leaves_early_ends_a_tool_silently(command, tmp_path):
    """As ``| head`` does, with more output than fits into a pipe."""
    names = ", ".join(f"some_class_{i}" for i in range(20_000))
    (tmp_path / "big.yaml").write_text(f"tree: [{names}]")
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_bad_trees_and_pictures(show, tmp_path):
    check_one_error(show("cityscape"), 2, "error: 'cityscape'", "cityscapes")
    (tmp_path / "tree.yaml").write_text("tree: {flat: [road, road]}")
    check_one_error(show(tmp_path / "tree.yaml"), 1, "road", "tree.yaml")
    check_one_error(show("lip", "--png", tmp_path), 2, f"--png {tmp_path} is a folder")
    folder = "--png: cannot create the folder /proc/new"
    check_one_error(show("lip", "--png", "/proc/new/lip.png"), 2, folder)


def test_a_picture_without_opencv(show, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("hiera_seg.visualization")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, out, _ = show("lip", "--png", tmp_path / "lip.png")
    assert code.startswith("error: ") and "OpenCV" in code and "\n" not in code
    assert "jumpsuits" in out


def test_a_terminal_without_unicode(tmp_path):
    done = subprocess.run(
        [sys.executable, TOOL, "lip"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"") and b"jumpsuits" in done.stdout
