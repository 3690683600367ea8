"""Every config of the repository: an iteration and an evaluation, without datasets or network."""

import math
import os
import socket
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

import projects.GeneratedStreets  # noqa: F401  (registers what configs/Generated trains on)
from hiera_seg import Hierarchy
from hiera_seg.cli import load_config
from hiera_seg.config import resolve_hierarchy
from hiera_seg.diagnostics import fast_dev_run
from hiera_seg.diagnostics.fast_dev_run import NUM_IMAGES
from hiera_seg.diagnostics.fast_dev_run import _draw as draw_patches
from hiera_seg.errors import ConfigError
from hiera_seg.model_zoo import config_names, get_config_file
from tests.helpers import REPOSITORY

ALL = (Path(get_config_file(name)).relative_to(REPOSITORY) for name in config_names())
CONFIGS = sorted(str(path) for path in ALL if not path.name.startswith("Base"))
SMALL = "configs/CamVid/hssn_deeplab_v3_plus_r18.yaml"


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    """No network, no datasets, and a folder for temporary files that has to end empty."""

    def refuse(*args):
        raise AssertionError("a fast development run must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    assert os.listdir(tmp_path) == []


def read(config, *options):
    return load_config(str(REPOSITORY / config), list(options))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_trains_and_evaluates(config):
    cfg = read(config)
    before = cfg.dump()
    run = fast_dev_run(cfg)
    assert math.isfinite(run.total_loss)
    levels = resolve_hierarchy(cfg).level_names
    assert all(0 <= run.metrics[f"mIoU_{level}"] <= 100 for level in levels)
    assert cfg.dump() == before
    assert not any("fast_dev_run" in name for name in DatasetCatalog.list())


def test_a_config_for_gpus_in_half_precision_is_tried_on_a_cpu():
    amp = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION")
    assert math.isfinite(fast_dev_run(read(SMALL, *amp, "float16")).total_loss)
    with pytest.raises(ConfigError, match="PRECISION"):
        fast_dev_run(read(SMALL, *amp, "float15"))


def test_a_run_repeats_itself():
    first, second = (fast_dev_run(read(SMALL), iterations=2) for _ in range(2))
    assert first.total_loss == second.total_loss
    assert first.metrics == pytest.approx(second.metrics, nan_ok=True)


def test_any_tree(tmp_path):
    """Ragged, and with more nodes than 8 bits hold."""
    leaves = {f"group{i}": [f"leaf{i}_{j}" for j in range(40)] for i in range(8)}
    tree = Hierarchy.from_dict({"alone": None, "all": leaves}, name="wide")
    tree.to_yaml(tmp_path / "wide.yaml")
    options = ("MODEL.HIERA_SEG.HIERARCHY", str(tmp_path / "wide.yaml"))
    cfg = read(SMALL, *options, "MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4)
    run = fast_dev_run(cfg)
    (tmp_path / "wide.yaml").unlink()
    assert math.isfinite(run.total_loss)
    # random patches show many leaves, and inner nodes, which are no class of their own
    assert sum(not math.isnan(run.metrics[f"IoU-{name}"]) for name in tree.leaf_names) > 15


def test_patches_show_leaves_inner_nodes_and_void(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    tree = Hierarchy.load("camvid")
    records = draw_patches(folder, tree)
    assert len(records) == NUM_IMAGES
    labels = np.stack([np.asarray(Image.open(r["sem_seg_file_name"])) for r in records])
    assert labels.shape[1:] == (records[0]["height"], records[0]["width"])
    seen = set(np.unique(labels).tolist())
    assert seen == {*range(tree.num_nodes), 255}
    images = np.stack([np.asarray(Image.open(r["file_name"])) for r in records]).astype(int)
    first, second = (images[labels == node].mean(axis=0) for node in (0, tree.num_leaves))
    assert np.abs(first - second).max() > 8, "a node has a colour of its own"


def test_test_time_augmentation_is_tried_too():
    options = ("TEST.AUG.ENABLED", True, "TEST.AUG.CROP_SIZE", [512, 1024])
    assert math.isfinite(fast_dev_run(read(SMALL, *options)).metrics["mIoU"])


def test_what_can_not_work():
    with pytest.raises(ConfigError, match="--iterations is 0"):
        fast_dev_run(read(SMALL), iterations=0)
    with pytest.raises(ConfigError, match="no class tree"):
        fast_dev_run(read("configs/Base-DeepLabV3Plus-R18.yaml"))


def test_train_net_has_it(start_tool):
    config = ("--config-file", REPOSITORY / SMALL, "--fast-dev-run")
    train_net = partial(start_tool("train_net"), *config)
    code, out, _ = train_net("--iterations", 2)
    assert code == 0 and "2 iterations and an evaluation in" in out and SMALL in out
    code, _, err = train_net("--iterations", 0)
    assert code == 2 and "--iterations is 0" in err
    for options in (["--num-gpus", 2], ["--dry-run"], ["--eval-only"]):
        code, _, err = train_net(*options)
        assert code == 2 and options[0] in err
    code, _, err = start_tool("train_net")(*config[:2], "--iterations", 2)
    assert code == 2 and "--iterations" in err


def test_a_page_of_many(start_tool, tmp_path):
    page, tool = tmp_path / "page.md", start_tool("fast_dev_run")
    good, bad = REPOSITORY / SMALL, REPOSITORY / "configs/Base-DeepLabV3Plus-R18.yaml"
    code, out, _ = tool(good, "--table", page)
    assert code == 0 and "1 of 1 configs work" in out
    assert f"| `{SMALL}` | 12.0 |" in page.read_text()
    page.write_text(page.read_text().replace(" | 12.0 | ", " | 77.7 | "))  # not run again
    other = REPOSITORY / "configs/CamVid/flat_deeplab_v3_plus_r18.yaml"
    again = (other, good, "--table", page, "--missing")
    code, out, _ = tool(*again)
    assert code == 0 and "2 of 2 configs work" in out and f"{SMALL}:" not in out
    first, second = page.read_text().splitlines()[-2:]
    assert first.startswith("| `configs/CamVid/flat_") and f"| `{SMALL}` | 77.7 |" in second
    tool(*again, "--iterations", 2)  # rows of other runs are not kept
    assert "77.7" not in page.read_text() and "with 2 iterations" in page.read_text()
    code, _, err = tool(good, "--missing")
    assert code == 2 and "--missing" in err and "--table" in err
    page.unlink()
    code, out, err = tool(bad, good, "--table", page)
    assert code == 1 and "1 of 2 configs work" in out
    assert err.startswith("error: configs/Base-DeepLabV3Plus-R18.yaml: no class tree")
    assert "1 of 2 configs passed, with 1 iterations" in page.read_text()
    page.unlink()
