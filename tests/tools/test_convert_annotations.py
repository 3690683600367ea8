import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.hierarchy import Hierarchy

TOOL = Path(__file__).parents[2] / "tools/convert_annotations.py"


def test_label_files_and_their_tree(start_tool, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "x/a.jpg", "height": 4, "width": 6}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]}
        ],
        "categories": [{"id": 2, "name": "car", "supercategory": "vehicle"}],
    }
    path, out = tmp_path / "export.json", tmp_path / "out"
    path.write_text(json.dumps(content))
    try:
        code, printed, _ = start_tool(TOOL)(path, out, "--background", "ground")
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop("to_convert", None)
    assert code == 0 and printed.startswith("wrote 1 label files") and str(out) in printed
    tree = Hierarchy.load(out / "hierarchy.yaml")
    assert tree.paths == ("vehicle/car", "ground", "vehicle")
    labels = np.full((4, 6), 1)
    labels[:2, :3] = 0
    assert np.array_equal(np.asarray(Image.open(out / "a.png")), labels)


def test_bad_input_is_one_line(start_tool, tmp_path):
    code, _, error = start_tool(TOOL)(tmp_path / "no.json", tmp_path / "out")
    assert code == 1 and error.count("\n") == 1 and "no.json" in error
