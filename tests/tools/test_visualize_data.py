"""tools/visualize_data.py: pictures of files and of the training stream, and errors of one line."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.hierarchy import tree_colors
from tests.helpers import new_config, write_dataset
from tests.messages import check_one_error
from tests.tiny_street import STREET

NAME = "visualize_street_train"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A dataset of three images, and a config that trains on it."""
    folder = tmp_path_factory.mktemp("visualize")
    labels = np.full((3, 40, 60), 255, np.uint8)
    labels[:, 4:, :30], labels[:, 4:, 30:] = STREET["road"], STREET["vehicle"]
    register_hierarchical_dataset(NAME, hierarchy=STREET, **write_dataset(folder, labels))
    cfg = new_config(
        *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [32, 48]),
        *("INPUT.MIN_SIZE_TRAIN", (40,), "SOLVER.IMS_PER_BATCH", 2, "MODEL.DEVICE", "cpu"),
    )
    cfg.DATASETS.TRAIN = (NAME,)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def visualize(start_tool, tmp_path):
    return partial(start_tool("visualize_data"), "--output", tmp_path / "out")


def pictures(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def test_files_of_a_dataset_in_the_colours_of_each_level(visualize, project, tmp_path):
    code, out, err = visualize(NAME, "--num", 2, "--alpha", 1)
    assert (code, err) == (0, "") and "2 samples drawn" in out
    assert "60x40, road 45%, vehicle 45%, void 10%" in out
    drawn = pictures(tmp_path / "out")
    assert list(drawn) == [f"{NAME}-00000-0.png", f"{NAME}-00002-2.png"]  # spread over the set
    colors = tree_colors(STREET)
    columns = {}
    for node in ("flat", "road", "vehicle"):
        hit = (drawn[f"{NAME}-00000-0.png"][200] == colors[STREET[node]]).all(axis=1)
        columns[node] = np.flatnonzero(hit)
        assert len(columns[node]) > 50, node
    assert columns["flat"].max() < columns["road"].min()  # group before class
    assert len(columns["vehicle"]) > 1.5 * len(columns["flat"])  # known at the group level only


def test_the_training_stream_is_cropped_and_the_same_each_time(visualize, project, tmp_path):
    options = ("--config-file", project / "config.yaml", "--source", "dataloader", "--num", 3)
    code, out, err = visualize(*options)
    assert (code, err) == (0, "") and out.count("48x32") == 3
    first = pictures(tmp_path / "out")
    assert all(name.startswith(f"{NAME}-0000") for name in first)
    visualize(*options)
    again = pictures(tmp_path / "out")
    assert all(np.array_equal(picture, again[name]) for name, picture in first.items())


def test_a_bad_file_is_named_and_the_others_are_drawn(visualize, project, tmp_path):
    good = project / "labels" / "1.png"
    content = good.read_bytes()
    try:
        good.write_bytes(b"no image")
        result = visualize(NAME, "--num", 3)
    finally:
        good.write_bytes(content)
    check_one_error(result, 1, "1.png")
    assert "2 samples drawn" in result[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "no dataset to draw"),
        (("nothing_registered",), "nothing_registered"),
        ((NAME, "--num", 0), "--num is 0"),
        ((NAME, "--alpha", 2), "--alpha is 2"),
        ((NAME, "--source", "dataloader"), "needs --config-file"),
        (("--config-file", "none.yaml"), "none.yaml"),
    ],
)
def test_bad_arguments(visualize, project, options, expected):
    check_one_error(visualize(*options), 2, expected)
