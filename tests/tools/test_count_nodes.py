"""tools/count_nodes.py, and what configs make of its file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from PIL import Image

from hiera_seg import add_hiera_seg_config
from hiera_seg.errors import ConfigError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "count_nodes.py"
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


def run(folder: Path, *arguments: object):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "tiny.py").write_text(MODULE)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for index, rows in enumerate([[1, 1, 3, 0], [4, 4, 4, 1]]):
        Image.new("RGB", (5, 4)).save(tmp_path / "images" / f"{index}.png")
        label = np.repeat(np.array(rows, np.uint8)[:, None], 5, axis=1)
        Image.fromarray(label).save(tmp_path / "labels" / f"{index}.png")
    return tmp_path


def test_it_counts_what_labels_name(folder):
    done = run(folder, "tiny_train", "--import", "tiny", "--output", "counts.json")
    assert done.returncode == 0, done.stderr
    assert "35 pixels of 2 images, 5 nodes, 2 of them without labels" in done.stdout
    found = json.loads((folder / "counts.json").read_text())
    assert found["pixels"] == {
        "flat/road": 15, "flat/path": 0, "vehicle/car": 5, "flat": 0, "vehicle": 15,
    }  # fmt: skip
    assert (found["void"], found["images"], found["datasets"]) == (5, 2, ["tiny_train"])


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["tiny_trian", "--output", "c.json"], 2, "tiny_train"),
        (
            ["tiny_train", "--output", "/proc/c/c.json"],
            2,
            "--output: cannot create the folder /proc/c",
        ),
    ],
)
def test_bad_arguments_are_one_line(folder, arguments, code, line):
    done = run(folder, *arguments, "--import", "tiny")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert line in done.stderr.strip().splitlines()[-1]


def test_a_label_that_can_not_be_read_is_named(folder):
    (folder / "labels" / "1.png").write_bytes(b"no png")
    done = run(folder, "tiny_train", "--import", "tiny", "--output", "counts.json")
    assert done.returncode == 1
    assert "labels/1.png" in done.stderr.strip().splitlines()[-1]
    assert not (folder / "counts.json").exists()


def config(tmp_path, **keys):
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    file = Path(__file__).resolve().parents[2] / "configs" / "Base-DeepLabV3Plus-R18.yaml"
    cfg.merge_from_file(str(file))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.HIERA_SEG.HIERARCHY = "camvid"
    cfg.MODEL.HIERA_SEG.LOSSES = [["focal_tree_min", 1.0], ["rmi", 1.0]]
    for key, value in keys.items():
        cfg.MODEL.HIERA_SEG.NODE_WEIGHTS[key] = value
    return cfg


def test_a_config_hands_them_to_the_losses_that_take_them(tmp_path):
    (tmp_path / "c.json").write_text(
        '{"pixels": {"road/road_surface/Road": 8, "ceiling/sky/Sky": 2}}'
    )
    cfg = config(tmp_path, METHOD="inverse", FILE=str(tmp_path / "c.json"))
    focal, rmi = build_model(cfg).sem_seg_head.loss.losses
    tree = focal.hierarchy
    assert focal.node_weights[tree["Sky"]] == pytest.approx(1.6)
    assert focal.node_weights[tree["Road"]] == pytest.approx(0.4)
    assert rmi.node_weights is None


@pytest.mark.parametrize(
    ("keys", "losses", "message"),
    [
        ({"METHOD": "log", "FILE": "c.json"}, None, "METHOD is 'log'"),
        ({"METHOD": "median", "FILE": "c.json", "MAX": 0.0}, None, "MAX is 0.0"),
        ({"METHOD": "median"}, None, "FILE is empty"),
        ({"FILE": "c.json"}, None, "FILE is 'c.json', but METHOD is empty"),
        ({"METHOD": "median", "FILE": "gone.json"}, None, "FILE: gone.json cannot be read"),
        (
            {"METHOD": "median", "FILE": "c.json"},
            [["rmi", 1.0]],
            "no loss of .* takes node weights",
        ),
    ],
)
def test_keys_that_can_not_work(tmp_path, monkeypatch, keys, losses, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text('{"pixels": {"ceiling/sky/Sky": 2}}')
    cfg = config(tmp_path, **keys)
    if losses:
        cfg.MODEL.HIERA_SEG.LOSSES = losses
    with pytest.raises(ConfigError, match=message):
        build_model(cfg)
