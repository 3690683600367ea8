"""Counts of two gloo processes add up to those of one."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.evaluation.image_counts import ImageCounts
from hiera_seg.hierarchy import Hierarchy

NAME = "hiera_test_distributed"
TREE = Hierarchy.from_dict({"sky": None, "flat": ["road", "path"], "vehicle": ["car", "bus"]})


def evaluate_part(folder, indices, **options):
    """Register the set, as each process of a training does, and score some of its images."""
    records = [
        {"file_name": f"{folder}/{i}.jpg", "sem_seg_file_name": f"{folder}/{i}.png"}
        for i in range(3)
    ]
    register_hierarchical_dataset(NAME, lambda: records, hierarchy=TREE)
    try:
        part = HieraSemSegEvaluator(NAME, **options)
        for i in indices:
            rng = np.random.default_rng(100 + i)
            leaf = rng.integers(0, TREE.num_leaves, (8, 10))
            direct = [
                rng.choice(TREE.level_nodes(level), (8, 10)) for level in range(TREE.num_levels)
            ]
            scores = rng.random((TREE.num_levels, 8, 10)).astype(np.float32)
            output = {
                "hiera_labels": [leaf, leaf],
                "hiera_labels_direct": direct,
                "hiera_confidence": list(scores),
                "hiera_greedy_path": leaf,
                "hiera_greedy_path_limits": list(scores[1:]),
            }
            part.process([records[i]], [output])
        return part.evaluate()
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def run_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    uneven = [[0, 2], [1]][rank]
    results = {
        "summed": evaluate_part(folder, uneven),
        "one idle": evaluate_part(folder, [[], [0, 1, 2]][rank], distributed=True),
        "alone": evaluate_part(folder, uneven, distributed=False),
        "written": evaluate_part(folder, uneven, output_dir=f"{folder}/out", save_predictions=True),
    }
    torch.save(results, f"{folder}/results{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    rng = np.random.default_rng(0)
    for i in range(3):
        truth = rng.choice([*range(TREE.num_nodes), 255], (8, 10)).astype(np.uint8)
        Image.fromarray(truth).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    torch.multiprocessing.spawn(run_process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"results{rank}.pt") for rank in range(2)]


def test_two_processes_equal_one_exactly(folder, results):
    expected = evaluate_part(folder, [0, 1, 2])
    assert expected["sem_seg"]["consistency"] > 0
    assert expected["sem_seg"]["safe_depth_auc"] > 0 and expected["sem_seg"]["ECE_level_1"] > 0
    assert results[0]["summed"] == expected
    assert results[0]["one idle"] == expected
    assert results[1]["summed"] == results[1]["one idle"] == {}


def test_not_distributed_scores_each_process_alone(folder, results):
    assert results[0]["alone"] == evaluate_part(folder, [0, 2])
    assert results[1]["alone"] == evaluate_part(folder, [1])


def test_main_process_writes_for_all(folder, results):
    assert results[1]["written"] == {}
    summary = json.loads((folder / "out" / "hiera_metrics.json").read_text())
    assert summary["images"] == 3
    entries = json.loads((folder / "out" / "hiera_predictions.json").read_text())
    assert {entry["file_name"] for entry in entries} == {f"{folder}/{i}.jpg" for i in range(3)}
    counts = ImageCounts.load(folder / "out" / "image_counts.npz")
    assert counts.images == ("0.jpg", "1.jpg", "2.jpg")
    evaluate_part(folder, [0, 1, 2], output_dir=str(folder / "one"))
    expected = ImageCounts.load(folder / "one" / "image_counts.npz")
    for name in ("image", "predicted", "true", "pixels"):
        np.testing.assert_array_equal(getattr(counts, name), getattr(expected, name))
