import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests.helpers import write_dataset

MODULE = """
from hiera_seg.data import register_hierarchical_dataset
register_hierarchical_dataset(
    "to_convert", image_root="images", sem_seg_root="labels",
    hierarchy={"ground": ["road", "grass"]}, label_map={1: "ground", 2: "grass", 0: None})
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with to_convert_module.py and its files; the current folder of the test."""
    (tmp_path / "to_convert_module.py").write_text(MODULE)
    write_dataset(tmp_path, {"a": np.array([[0, 1, 2]], np.uint8)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("to_convert_module", None)


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
        1, "", "error: labels/a.png: raw ids [3] are not in the label map of dataset 'to_convert'; "
        "map each to a node, or to None for void\n",
    )  # fmt: skip
    code, _, err = convert("to_convert", "labels")
    assert code == 1 and "labels holds the original labels of 'to_convert'" in err
    code, _, err = convert("to_convrt", "ids")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(
        "error: NAME names the dataset 'to_convrt', which is not registered (near"
    )
