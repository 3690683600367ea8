import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools/convert_labels.py"
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
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / folder / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("to_convert_module", None)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "to_convert" in catalog:
            catalog.remove("to_convert")


@pytest.fixture
def convert(monkeypatch, capsys):
    def run(*options):
        options = [*options, "--import", "to_convert_module"]
        monkeypatch.setattr(sys, "argv", [str(TOOL), *options])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


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
