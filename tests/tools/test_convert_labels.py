from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests.helpers import write_dataset
from tests.messages import check_one_error

MODULE = """
from hiera_seg.data import register_hierarchical_dataset
register_hierarchical_dataset(
    "to_convert", image_root="images", sem_seg_root="labels",
    hierarchy={"ground": ["road", "grass"]}, label_map={1: "ground", 2: "grass", 0: None})
"""


@pytest.fixture
def project(user_module):
    """A folder with to_convert_module.py and its files; the current folder of the test."""
    folder = user_module("to_convert_module", MODULE)
    write_dataset(folder, {"a": np.array([[0, 1, 2]], np.uint8)})
    return folder


@pytest.fixture
def convert(start_tool):
    return partial(start_tool("convert_labels"), "--import", "to_convert_module")


def test_node_ids_are_written(project, convert):
    assert convert("to_convert", "ids") == (0, "wrote 1 label files of to_convert to ids\n", "")
    assert np.asarray(Image.open(project / "ids/a.png")).tolist() == [[255, 2, 1]]
    assert convert("to_convert", "leaves", "--leaves")[0] == 0
    assert np.asarray(Image.open(project / "leaves/a.png")).tolist() == [[255, 255, 1]]


def test_bad_input_is_one_line(project, convert):
    Image.fromarray(np.array([[0, 1, 3]], np.uint8)).save(project / "labels/a.png")
    assert convert("to_convert", "ids") == (
        1, "", "error: labels/a.png: raw ids 3 are not in the label map of dataset 'to_convert'; "
        "map each to a node, or to None for void\n",
    )  # fmt: skip
    original = "labels holds the original labels of 'to_convert'"
    check_one_error(convert("to_convert", "labels"), 1, original)
    unknown = "NAME names the dataset 'to_convrt', which is not registered; near"
    check_one_error(convert("to_convrt", "ids"), 2, unknown)
