"""tools/publish_weights.py: a run's folder as one file, which predicts in another process."""

import json
from pathlib import Path

import pytest
import torch

from hiera_seg.inference import load_published
from hiera_seg.modeling.build import build_model
from tests.helpers import run_python
from tests.messages import check_one_error

pytest.importorskip("safetensors", reason="needs safetensors")
PREDICT = """
import socket, sys
socket.socket.connect = None
import numpy as np
from hiera_seg.inference import HieraPredictor
result = HieraPredictor(sys.argv[1])(np.zeros((30, 40, 3), np.uint8), level="group")
print(tuple(result["labels"].shape), sorted(result["names"].values())[0] in ("flat", "vehicle"))
"""


@pytest.fixture
def run_folder(cfg, tiny_dataset):
    """A run with config.yaml, a last checkpoint and an evaluation."""
    folder = Path(cfg.OUTPUT_DIR)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    metrics = {"mIoU": 42.5, "mIoU_group": 60.0, "IoU-road": 70.0, "tree_distance": None}
    summary = {"dataset": tiny_dataset, "images": 3, "metrics": metrics}
    (folder / "hiera_metrics.json").write_text(json.dumps(summary))
    return folder


def test_a_run_becomes_a_file(start_tool, run_folder, tiny_dataset, tmp_path):
    tool = start_tool("publish_weights")
    path = tmp_path / "model.safetensors"
    code, out, err = tool("--run", run_folder, "--output", path, "--license", "CC BY 4.0")
    assert code == 0, err
    about = load_published(path).about
    assert about["sha256"] in out and about["license"] == "CC BY 4.0"
    metrics = {"mIoU": 42.5, "mIoU_group": 60.0, "tree_distance": None}
    assert about["metrics"] == {"dataset": tiny_dataset, "images": 3, **metrics}
    done = run_python("-c", PREDICT, path)
    assert done.stdout.splitlines()[-1:] == ["(30, 40) True"], done.stderr

    best = run_folder / "model_best.pth"
    best.write_bytes((run_folder / "model_final.pth").read_bytes())
    of_best = ("--opts", "MODEL.WEIGHTS", best)
    code, out, _ = tool("--run", run_folder, "--output", path, *of_best)
    assert code == 0 and "no metrics" in out and "model_final.pth" in out
    assert load_published(path).about["metrics"] is None
    code, _, _ = tool("--run", run_folder, "--output", path, "--dataset", tiny_dataset, *of_best)
    assert code == 0 and load_published(path).about["metrics"]["mIoU"] == 42.5

    (run_folder / "hiera_metrics.json").unlink()
    code, out, _ = tool("--run", run_folder, "--output", path)
    assert code == 0 and "no metrics" in out and load_published(path).about["metrics"] is None


def test_errors_of_one_line(start_tool, run_folder, tmp_path):
    tool = start_tool("publish_weights")
    for options, named in (
        (("--run", run_folder, "--output", tmp_path / "model.pth"), "model.pth"),
        (("--run", tmp_path / "none", "--output", tmp_path / "a.safetensors"), "none"),
        (("--output", tmp_path / "a.safetensors"), "--config-file"),
        (("--run", run_folder, "--dataset", "x", "--output", tmp_path / "a.safetensors"), "x"),
    ):
        check_one_error(tool(*options), 2, named)
