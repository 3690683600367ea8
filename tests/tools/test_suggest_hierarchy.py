"""tools/suggest_hierarchy.py from the command line."""

import re

import numpy as np
import pytest
from PIL import Image

from hiera_seg.hierarchy import Hierarchy
from tests.messages import check_one_error

NAMES = ["road", "path", "car", "bus", "sky"]
# Rows are true classes; car and bus, road and path are confused.
ROWS = [[80, 20, 0, 0, 0], [25, 75, 0, 0, 0], [0, 1, 70, 29, 0], [0, 0, 30, 70, 0], [0, 0, 0, 0, 9]]


def write_csv(path, names=NAMES, rows=ROWS, header=None):
    lines = [
        ["", *(header or names)],
        *([name, *row] for name, row in zip(names, rows, strict=True)),
    ]
    path.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")
    return path


@pytest.fixture
def run(start_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return start_tool("suggest_hierarchy")


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_confusions_become_a_tree_and_a_picture(kind, run, tmp_path):
    source = write_csv(tmp_path / "confusion.csv")
    if kind == "npz":
        source = tmp_path / "confusion_class.npz"
        matrix = np.vstack([np.array(ROWS).T, np.zeros((1, 5), int)])
        np.savez(source, matrix=matrix, classes=np.array(NAMES))
    code, printed, _ = run(source, "--groups", 2, "--output", tmp_path / "tree.yaml")
    assert code == 0 and "similar to no other class: sky" in printed
    tree = Hierarchy.load(str(tmp_path / "tree.yaml"))
    assert tree.name == "tree" and list(tree.leaf_names) == NAMES
    assert tree.leaf_to_level(0).tolist() == [1, 1, 2, 2, 0]  # sky is a leaf, before the groups
    with Image.open(tmp_path / "tree.png") as image:
        assert image.width > 500 and image.getextrema()[0] == (0, 255)


def test_names_of_a_dataset_and_of_a_file(run, tmp_path):
    code, printed, _ = run("hiera_lip_val", "--output", tmp_path / "a.yaml")
    assert code == 0 and "arm_group" in printed
    names = tmp_path / "names.txt"
    names.write_text("left arm\nright arm\n\nleft leg\nright leg\n")
    code, printed, _ = run(names, "--levels", 2, "--png", tmp_path / "b.png")
    assert code == 0 and (tmp_path / "suggested.yaml").exists() and (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text(""), "header of 0 classes"),
        (lambda path: write_csv(path, NAMES[:4], ROWS[:4], NAMES), "4 lines of numbers.*5"),
        (lambda path: write_csv(path, NAMES[::-1], ROWS, NAMES), "line 2 is of class 'sky'"),
        (lambda path: write_csv(path, rows=[*ROWS[:4], [0, 0, "x", 0, 9]]), "line 6.*'x'"),
        (lambda path: write_csv(path, rows=[*ROWS[:4], [1, 2]]), "line 6 has 2 numbers"),
        (lambda path: write_csv(path, rows=[*ROWS[:4], [0, 0, -3, 0, 1]]), "line 6.*from -3"),
        (lambda path: write_csv(path, rows=[*ROWS[:4], [0, 0, "nan", 0, 1]]), "line 6"),
        (lambda path: write_csv(path, ["a", "a", *NAMES[2:]]), "'a' occurs twice"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    ],
)
def test_a_bad_csv_is_named(write, message, run, tmp_path):
    path = tmp_path / "confusion.csv"
    write(path)
    code, _, error = run(path, "--groups", 2)
    assert code == 1 and error.count("\n") == 1
    assert re.search(message, error), error
    assert "confusion.csv" in error or "classes" in error
    assert not (tmp_path / "suggested.yaml").exists()


def test_other_bad_arguments_are_named(run, tmp_path):
    source = write_csv(tmp_path / "c.csv")
    check_one_error(run(tmp_path / "none.csv"), 1, "none.csv")
    code, _, error = run("hiera_unknown")
    assert code and "hiera_unknown" in error
    check_one_error(run(source, "--groups", 4), 1, "[4]")
    check_one_error(run(source, "--levels", 9), 1, "fewer than 9 levels")
    (tmp_path / "empty.txt").write_text("")
    check_one_error(run(tmp_path / "empty.txt"), 1, "0 of 0 classes")
    for options in (
        ["--levels", 1], ["--levels", 0], ["--levels", 4, "--groups", 2], ["--output", "t.json"],
        ["--min-similarity", "nan"],
    ):  # fmt: skip
        code, _, error = run(source, *options)
        assert code == 2 and f"error: {options[0]}" in error
