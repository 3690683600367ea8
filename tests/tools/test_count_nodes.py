"""tools/count_nodes.py, and what configs make of its file."""

import json
from functools import partial

import numpy as np
import pytest
from detectron2.modeling import build_model

from hiera_seg.errors import ConfigError
from tests.helpers import CONFIGS, new_config, write_dataset
from tests.messages import check_one_error

MODULE = """
from hiera_seg.data import register_hierarchical_dataset
register_hierarchical_dataset(
    "tiny_train",
    hierarchy={"flat": ["road", "path"], "vehicle": ["car"]},
    label_map={1: "road", 2: "path", 3: "car", 4: "vehicle", 0: None},
    image_root="images",
    sem_seg_root="labels",
)
"""


@pytest.fixture
def folder(user_module):
    rows = np.array([[1, 1, 3, 0], [4, 4, 4, 1]], np.uint8)
    folder = user_module("tiny", MODULE)
    write_dataset(folder, rows[..., None].repeat(5, axis=2))
    return folder


@pytest.fixture
def count(start_tool):
    return partial(start_tool("count_nodes"), "--import", "tiny", "--output")


def test_it_counts_what_labels_name(folder, count):
    code, out, err = count("counts.json", "tiny_train")
    assert code == 0, err
    assert "35 pixels of 2 images, 5 nodes, 2 of them without labels" in out
    found = json.loads((folder / "counts.json").read_text())
    assert found["pixels"] == {
        "flat/road": 15, "flat/path": 0, "vehicle/car": 5, "flat": 0, "vehicle": 15,
    }  # fmt: skip
    assert (found["void"], found["images"], found["datasets"]) == (5, 2, ["tiny_train"])


@pytest.mark.parametrize(
    ("file", "name", "line"),
    [
        ("c.json", "tiny_trian", "tiny_train"),
        ("/proc/c/c.json", "tiny_train", "--output: cannot create the folder /proc/c"),
    ],
)
def test_bad_arguments_are_one_line(folder, count, file, name, line):
    check_one_error(count(file, name), 2, line)


def test_a_label_that_can_not_be_read_is_named(folder, count):
    (folder / "labels" / "1.png").write_bytes(b"no png")
    code, _, err = count("counts.json", "tiny_train")
    assert code == 1 and "labels/1.png" in err.splitlines()[-1]
    assert not (folder / "counts.json").exists()


def config(**keys):
    cfg = new_config()
    cfg.merge_from_file(str(CONFIGS / "Base-DeepLabV3Plus-R18.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.HIERA_SEG.HIERARCHY = "camvid"
    cfg.MODEL.HIERA_SEG.LOSSES = [["focal_tree_min", 1.0], ["rmi", 1.0]]
    for key, value in keys.items():
        cfg.MODEL.HIERA_SEG.NODE_WEIGHTS[key] = value
    return cfg


@pytest.mark.parametrize("file", ["{folder}/c.json", "package://counted/c.json"])
def test_a_config_hands_them_to_the_losses_that_take_them(tmp_path, monkeypatch, file):
    pixels = {"road/road_surface/Road": 8, "ceiling/sky/Sky": 2}
    folder = tmp_path / "counted"
    folder.mkdir()
    (folder / "c.json").write_text(json.dumps({"pixels": pixels}))
    monkeypatch.syspath_prepend(tmp_path)
    cfg = config(METHOD="inverse", FILE=file.format(folder=folder))
    focal, rmi = build_model(cfg).sem_seg_head.loss.losses
    tree = focal.hierarchy
    assert focal.node_weights[tree["Sky"]] == pytest.approx(1.6)
    assert focal.node_weights[tree["Road"]] == pytest.approx(0.4)
    assert rmi.node_weights is None


@pytest.mark.parametrize(
    ("keys", "losses", "message"),
    [
        ({"METHOD": "log", "FILE": "c.json"}, None, "METHOD 'log'"),
        ({"METHOD": "median", "FILE": "c.json", "MAX": 0.0}, None, "maximum is 0.0"),
        ({"METHOD": "median"}, None, "FILE ''"),
        ({"FILE": "c.json"}, None, "METHOD '' and FILE 'c.json'"),
        ({"METHOD": "median", "FILE": "gone.json"}, None, "gone.json cannot be read"),
        ({"METHOD": "median", "FILE": "c.json"}, [["rmi", 1.0]], "no loss of .* takes node weig"),
    ],
)
def test_keys_that_can_not_work(tmp_path, monkeypatch, keys, losses, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text('{"pixels": {"ceiling/sky/Sky": 2}}')
    cfg = config(**keys)
    if losses:
        cfg.MODEL.HIERA_SEG.LOSSES = losses
    with pytest.raises(ConfigError, match=message):
        build_model(cfg)
