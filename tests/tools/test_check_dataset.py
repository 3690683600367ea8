"""tools/check_dataset.py: its tables, its verdicts and its exit codes."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests.helpers import write_dataset
from tests.messages import check_one_error

# What a user writes: a module that registers two splits.
MODULE = """
from hiera_seg.data import register_hierarchical_dataset
for split in ("train", "val"):
    register_hierarchical_dataset(
        f"mine_{split}", image_root=f"{split}/images", sem_seg_root=f"{split}/labels",
        hierarchy={"ground": ["road", "grass"]}, label_map={1: "road", 2: "grass", 0: None})
"""


@pytest.fixture
def project(user_module):
    """A folder with my_datasets.py and its files; the current folder of the test."""
    folder = user_module("my_datasets", MODULE)
    for split in ("train", "val"):
        labels = dict.fromkeys("ab", np.array([[0, 1], [2, 2]], np.uint8))
        write_dataset(folder / split, labels, images=labels)
    return folder


@pytest.fixture
def check(start_tool):
    return partial(start_tool("check_dataset"), "--import", "my_datasets")


def test_a_good_dataset(project, check):
    code, out, err = check("mine_train")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        "mine_train: no problems, 2 images".split(),
        [],
        ["mine_train"],
        ["node", "images", "pixels", "share", "%"],
        ["ground", "2", "6", "75.0000"],
        ["road", "2", "2", "25.0000"],
        ["grass", "2", "4", "50.0000"],
        ["void", "2", "25.0000"],
        ["all", "2", "8", "100.0000"],
        ["mine_train:", "values", "0", "to", "2", "in", "2", "8-bit", "images"],
    ]


def test_ids_that_are_void_by_mistake_end_with_status_1(project, check):
    for stem in "ab":
        mask = np.array([[1, 255], [255, 1]], np.uint8)
        Image.fromarray(mask).save(project / f"val/labels/{stem}.png")
    code, out, _ = check("mine_val")
    assert code == 1 and "never occur: 'grass', while raw id 255 (4 pixels" in out


@pytest.mark.parametrize("exif, status", [("apply", 1), ("ignore", 0)])
def test_orientations_are_told_and_may_be_ignored(project, check, exif, status):
    tag = Image.Exif()
    tag[0x0112] = 6
    for stem in "ab":
        values = np.array([[0, 1, 1], [2, 2, 1]], np.uint8)
        Image.fromarray(values).save(project / f"val/images/{stem}.png", exif=tag)
        Image.fromarray(values).save(project / f"val/labels/{stem}.png")
    code, out, _ = check("mine_val", "--exif", exif)
    assert code == status and "INPUT.EXIF" in out
    assert ("2 image(s) have an EXIF orientation" in out) == (exif == "ignore")


def test_all_splits_by_what_they_share(project, check):
    code, out, _ = check("mine")
    assert code == 0
    verdicts = out.splitlines()[:2]
    assert [line.split(": ")[0] for line in verdicts] == ["mine_train", "mine_val"]
    assert ["mine_train", "mine_val"] in [line.split() for line in out.splitlines()]


def test_problems_are_listed_and_the_status_is_1(project, check):
    (project / "val/labels/b.png").unlink()
    Image.fromarray(np.array([[9, 9], [2, 8]], np.uint8)).save(project / "val/labels/a.png")
    code, out, err = check("mine_val")
    assert code == 1 and err == ""
    assert "mine_val: 2 problem(s)" in out
    assert "1 image without a label: 'val/images/b.png' (images below val/images" in out
    assert "val/labels/a.png: raw ids 8, 9 are not in the label map of dataset 'mine_val'" in out
    code, out, _ = check("mine_val", "--show", "1")
    assert code == 1 and "... and 1 more" in out


def test_the_verdict_comes_first_and_nothing_is_tabled_that_was_not_read(project, check):
    for folder in ("images", "labels"):
        for path in (project / "val" / folder).iterdir():
            path.unlink()
    code, out, _ = check("mine")
    assert code == 1
    first, second, problem, *table = out.splitlines()
    assert first.startswith("mine_train: no problems")
    assert second.startswith("mine_val: 1 problem(s)") and "val/images" in problem
    assert not any("mine_val" in line for line in table)
    code, out, _ = check("mine_val")
    assert code == 1 and len(out.splitlines()) == 2


def test_bad_arguments_are_one_line(project, check):
    named = ("NAME names the dataset 'mine_test', which is not registered; near", "mine_train")
    check_one_error(check("mine_test"), 2, *named)
    imported = "--import my_dataset: No module named 'my_dataset'"
    check_one_error(check("mine", "--import", "my_dataset"), 2, imported)
    assert check()[0] == 2
    code, _, err = check("mine_val", "--show", "-3")
    assert code == 2 and "--show must be at least 0" in err
