"""A dataset of three small images, and a model that predicts a part of it wrongly."""

import numpy as np
import pytest
import torch
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.hierarchy import Hierarchy

TREE = Hierarchy.from_dict(
    {"sky": None, "flat": ["road", "path"], "vehicle": ["car", "bus"]},
    name="small",
    levels=["group", "class"],
)
SKY, ROAD, PATH, CAR, BUS, FLAT, VEHICLE = range(7)
SHAPES = [(12, 17), (9, 30), (16, 16)]


def paths_of(leaf):
    """Maps of node ids, coarse to fine, from a map of leaves."""
    return [TREE.level_nodes(i)[TREE.leaf_to_level(i)[leaf]] for i in range(TREE.num_levels)]


@pytest.fixture
def dataset(tmp_path):
    """Three images whose ground truth has every leaf, void, and no coarse label."""
    rng = np.random.default_rng(0)
    records, truths = [], []
    for i, shape in enumerate(SHAPES):
        truth = rng.integers(0, TREE.num_leaves, shape)
        truth = np.where(rng.random(shape) < 0.1, 255, truth)
        Image.fromarray(truth.astype(np.uint8)).save(tmp_path / f"label{i}.png")
        Image.new("RGB", shape[::-1]).save(tmp_path / f"image{i}.png")
        truths.append(truth)
        files = {"file_name": f"{tmp_path}/image{i}.png"}
        files["sem_seg_file_name"] = f"{tmp_path}/label{i}.png"
        records.append({**files, "height": shape[0], "width": shape[1]})
    name = f"of_test_{tmp_path.name}"
    register_hierarchical_dataset(name, lambda: records, hierarchy=TREE)
    return name, records, truths


class FakeModel(torch.nn.Module):
    """Predicts the ground truth with a third of the pixels wrong, as a model of ours would."""

    def __init__(self, truths, keys=("sem_seg", "hiera_labels", "hiera_labels_direct")):
        super().__init__()
        self.truths, self.keys = truths, keys

    def forward(self, inputs):
        return [self.predict(int(x["file_name"][-5])) for x in inputs]

    def labels(self, index):
        return self.predict(index)["hiera_labels"][-1].numpy()

    def predict(self, index):
        truth = self.truths[index]
        rng = np.random.default_rng(index)
        wrong = (truth == 255) | (rng.random(truth.shape) < 1 / 3)
        leaf = np.where(wrong, rng.integers(0, TREE.num_leaves, truth.shape), truth)
        direct = paths_of(leaf)
        direct[0] = np.where(rng.random(truth.shape) < 0.1, SKY, direct[0])
        one_hot = torch.nn.functional.one_hot(torch.tensor(leaf), TREE.num_leaves)
        outputs = {
            "sem_seg": one_hot.permute(2, 0, 1).float(),
            "hiera_labels": [torch.tensor(values) for values in paths_of(leaf)],
            "hiera_labels_direct": [torch.tensor(values) for values in direct],
        }
        return {key: outputs[key] for key in self.keys}


def run(evaluator, records, model):
    """What inference_on_dataset does, in two batches."""
    evaluator.reset()
    for batch in (records[:2], records[2:]):
        evaluator.process(batch, model(batch))
    return evaluator.evaluate()
