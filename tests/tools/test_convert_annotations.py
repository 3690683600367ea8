import json

import numpy as np
import pytest
from PIL import Image

from hiera_seg.hierarchy import Hierarchy
from tests.messages import check_one_error


@pytest.fixture
def convert(start_tool):
    return start_tool("convert_annotations")


def test_label_files_and_their_tree(convert, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "x/a.jpg", "height": 4, "width": 6}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]}
        ],
        "categories": [{"id": 2, "name": "car", "supercategory": "vehicle"}],
    }
    path, out = tmp_path / "export.json", tmp_path / "out"
    path.write_text(json.dumps(content))
    code, printed, _ = convert(path, out, "--background", "ground")
    assert code == 0 and printed.startswith("wrote 1 label files") and str(out) in printed
    tree = Hierarchy.load(out / "hierarchy.yaml")
    assert tree.paths == ("vehicle/car", "ground", "vehicle")
    labels = np.full((4, 6), 1)
    labels[:2, :3] = 0
    assert np.array_equal(np.asarray(Image.open(out / "a.png")), labels)


def test_bad_input_is_one_line(convert, tmp_path):
    check_one_error(convert(tmp_path / "no.json", tmp_path / "out"), 1, "no.json")


def test_a_folder_of_labelme_files(convert, tmp_path):
    for name, shapes in {
        "a": [
            {"label": "car", "points": [[0, 0], [3, 0], [3, 2], [0, 2]]},
            {"label": "road", "points": [[0, 0], [6, 3]], "shape_type": "rectangle"},
            {"label": "car", "points": [[1, 1]], "shape_type": "point"},
            {"label": "__ignore__", "points": [[4, 0], [6, 0], [6, 1], [4, 1]]},
            {
                "label": "car",
                "points": [[5, 2], [6, 2], [6, 4], [5, 4]],
                "shape_type": "oriented_rectangle",
            },
        ],
        "x/b": [
            {"label": "road", "points": [[0, 0], [2, 0], [2, 4], [0, 4]], "shape_type": "rectangle"}
        ],
    }.items():
        path = tmp_path / f"in/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = {"imagePath": f"{path.stem}.jpg", "imageHeight": 4, "imageWidth": 6}
        path.write_text(json.dumps({"shapes": shapes, **image}))
    (tmp_path / "in/other.json").write_text("[]")
    (tmp_path / "tree.yaml").write_text("tree: {all: [road, car]}")
    out = tmp_path / "out"
    code, printed, error = convert(tmp_path / "in", out, "--hierarchy", tmp_path / "tree.yaml")
    assert code == 0 and printed.startswith("wrote 2 label files"), error
    labels = np.full((4, 6), 255)
    labels[:3] = 0
    labels[:2, :3] = labels[2:, 5:] = 1
    labels[0, 4:] = 255
    assert np.array_equal(np.asarray(Image.open(out / "a.png")), labels)
    assert np.asarray(Image.open(out / "x/b.png"))[:, :3].tolist() == [[0, 0, 255]] * 4
    (tmp_path / "in/a.json").write_text('{"shapes": [{"label": "car", "points": [[1]]}]}')
    check_one_error(convert(tmp_path / "in", out), 1, "a.json")
    (tmp_path / "empty").mkdir()
    check_one_error(convert(tmp_path / "empty", out), 1, "empty")
