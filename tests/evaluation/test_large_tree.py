"""An evaluation in a tree of 10,000 leaves fits into little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.evaluation import HieraSemSegEvaluator, read_confusion, read_run
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import memory_of_process

ROOT = Path(__file__).resolve().parents[2]
NAME = "evaluation_large_tree"
GROUPS, KINDS, LEAVES = 20, 20, 25


def evaluate(folder):
    """Evaluate two images with all outputs; return the scores, and those of a count by hand."""
    tree = Hierarchy.from_dict(
        {
            f"g{i}": {f"k{i}_{j}": [f"c{i}_{j}_{k}" for k in range(LEAVES)] for j in range(KINDS)}
            for i in range(GROUPS)
        }
    )
    rng = np.random.default_rng(0)
    size = tree.num_leaves
    records, outputs = [], []
    right, true, predicted = np.zeros((3, size))
    for i in range(2):
        truth = rng.integers(0, size, (16, 16)).repeat(24, 0).repeat(24, 1)
        labels = np.where(rng.random(truth.shape) < 0.05, rng.integers(0, size, truth.shape), truth)
        Image.fromarray(truth.astype(np.uint16)).save(f"{folder}/{i}.png")
        records.append({"file_name": f"{folder}/{i}.png", "sem_seg_file_name": f"{folder}/{i}.png"})
        levels = [tree.level_nodes(n)[tree.leaf_to_level(n)[labels]] for n in range(3)]
        outputs.append({"hiera_labels": levels, "hiera_labels_direct": levels})
        right += np.bincount(truth[truth == labels], minlength=size)
        true += np.bincount(truth.flat, minlength=size)
        predicted += np.bincount(labels.flat, minlength=size)
    register_hierarchical_dataset(NAME, records, hierarchy=tree)
    try:
        evaluator = HieraSemSegEvaluator(NAME, output_dir=f"{folder}/out", boundary_iou=True)
        evaluator.process(records, outputs)
        found = evaluator.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    iou = right[true > 0] / (true + predicted - right)[true > 0]
    expected = {
        "mIoU": 100 * iou.mean(),
        "mIoU_direct_level_2": 100 * iou.mean(),
        "pACC": 100 * right.sum() / true.sum(),
        "consistency": 100.0,
    }
    return {key: found[key] for key in expected}, expected, size


def test_scores_and_memory_of_10_000_leaves(tmp_path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["leaves"] == 10_000
    assert report["found"] == pytest.approx(report["expected"])
    assert 0 < report["more"] < 400e6  # a matrix of all pairs of leaves alone has 800 MB
    matrix, classes = read_confusion(tmp_path / "out" / "confusion_level_1.npz")
    assert len(classes) == GROUPS * KINDS and matrix.sum() == 2 * 384**2
    assert len(read_run(tmp_path / "out").images) == 2


if __name__ == "__main__":
    before = memory_of_process("VmRSS")
    found, expected, size = evaluate(sys.argv[1])
    peak = memory_of_process("VmHWM")
    report = {"found": found, "expected": expected, "leaves": size}
    print(json.dumps({**report, "more": peak - before}))
