"""docs/training.md: its keys are there, and its code does a bad step again."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode

from hiera_seg.config import check_config
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.engine import HieraTrainer
from tests.helpers import CONFIGS, code_blocks, new_config, read_page, run_code, write_dataset

PAGE = "docs/training.md"


def test_the_keys_of_the_page_can_be_set_together():
    cfg = new_config()
    blocks = re.findall(r"^    (?=[A-Z]+:\n)(?:.+\n)+", read_page(PAGE), re.M)
    assert len(blocks) == 4
    for block in blocks:
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(block)))
    cfg.DATASETS.TEST = ("hiera_camvid_val",)
    check_config(cfg)
    assert cfg.SOLVER.EMA.ENABLED and cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.MAX == 10


@pytest.fixture
def dumped(tmp_path, monkeypatch) -> None:
    """output/ of a run in whose step 0 one of two losses is not finite: bfloat16, in two parts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    labels = np.zeros((4, 40, 40), np.uint8)
    for index in range(4):
        labels[index, : 9 * index] = 255  # void
    roots = write_dataset(tmp_path, labels)
    register_hierarchical_dataset("bad_step", hierarchy={"a": ["b", "c"]}, **roots)
    cfg = new_config()
    cfg.merge_from_file(str(CONFIGS / "Base-DeepLabV3Plus-R18.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "SEED", 3])
    cfg.merge_from_list(["INPUT.CROP.SIZE", [32, 32], "INPUT.MIN_SIZE_TRAIN", (40,)])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list(["SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.AMP.ENABLED", True])
    cfg.merge_from_list(["MODEL.HIERA_SEG.LOSSES", [["level_ce", 1.0]]])
    auxiliary = cfg.MODEL.HIERA_SEG.AUXILIARY
    auxiliary.WEIGHT, auxiliary.IN_FEATURE = 1.0, "res5"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.OUTPUT_DIR = ("bad_step",), (), "output"
    cfg.SEED += 1  # as of a resumed run, which went on with the seed of its beginning
    Path("output/config.yaml").write_text(cfg.dump())
    trainer = HieraTrainer(cfg)
    trainer.resume_or_load(resume=False)
    with torch.no_grad():
        trainer.model.sem_seg_head.auxiliary_head.predictor.bias[0] = float("inf")
    with pytest.raises(FloatingPointError, match="not finite before it: 'sem_seg_head.auxiliary"):
        trainer.train()


def test_a_dump_is_enough_to_do_the_step_again(dumped, capsys):
    code = code_blocks(PAGE, "python")[0]
    dump = torch.load("output/not_finite_0_process_0.pth")
    capsys.readouterr()
    run_code(PAGE, code.replace("not_finite_812", "not_finite_0"))
    printed = capsys.readouterr().out
    found = {k: float(v) for k, v in re.findall(r"'(\w+)': tensor\(([^,)]+)", printed)}
    assert found == pytest.approx(dump["losses"], abs=1e-4, nan_ok=True)
    assert sorted(map(math.isnan, found.values())) == [False, True]
