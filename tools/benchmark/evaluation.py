"""Compare counting a full-size image with one confusion matrix and with the stock evaluator."""

import atexit
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from benchmark.harness import Comparison
from benchmark.losses import VOID, cityscapes, street_labels
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.metrics import PathCounts

_SIZE = (1024, 2048)


def _maps() -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Return ground truth, labels and direct labels per level; 3 of 4 pixels are correct."""
    torch.manual_seed(0)
    tree = cityscapes()
    cpu = torch.device("cpu")
    truth = street_labels((1, *_SIZE), tree.num_leaves, cpu)[0]
    noise = street_labels((1, *_SIZE), tree.num_leaves, cpu)[0].clamp(max=tree.num_leaves - 1)
    leaf = torch.where((truth == VOID) | (torch.rand(_SIZE) < 0.25), noise, truth).int().numpy()
    levels = [tree.level_nodes(i)[tree.leaf_to_level(i)] for i in range(tree.num_levels)]
    paths = [nodes.astype(np.int32)[leaf] for nodes in levels]
    direct = [paths[0].copy(), leaf.copy()]
    direct[0][: _SIZE[0] // 8] = levels[0][0]  # levels that contradict each other
    return truth.numpy(), paths, direct


def make_counts(device) -> Callable[[], object]:
    """Count all that the evaluator counts of an image: labels, direct labels, consistency."""
    truth, paths, direct = _maps()
    counts = PathCounts(cityscapes(), VOID)
    return lambda: counts.add(paths[-1], truth, direct)


def make_bincount(device) -> Callable[[], object]:
    """Count one flat confusion matrix as stock Detectron2 does."""
    truth, paths, _ = _maps()
    classes = cityscapes().num_leaves + 1
    labels = paths[-1].astype(np.int64)

    def run():
        known = np.where(truth == VOID, classes - 1, truth)
        index = classes * labels.reshape(-1) + known.reshape(-1)
        return np.bincount(index, minlength=classes**2).reshape(classes, classes)

    return run


def _registered() -> tuple[str, str]:
    """Register a dataset of one label file; return its name and that file."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    label_file = str(folder / "label.png")
    Image.fromarray(_maps()[0].astype(np.uint8)).save(label_file)
    record = {"file_name": label_file, "sem_seg_file_name": label_file}
    record |= {"height": _SIZE[0], "width": _SIZE[1]}
    name = f"hiera_benchmark_{folder.name}"
    register_hierarchical_dataset(name, lambda: [record], hierarchy="cityscapes")
    return name, label_file


def _scores_and_evaluator(kind) -> Callable[[], object]:
    name, label_file = _registered()
    logging.getLogger("detectron2.evaluation.sem_seg_evaluation").setLevel(logging.ERROR)
    evaluator = kind(name, distributed=False)
    torch.manual_seed(0)
    scores = torch.rand(cityscapes().num_leaves, *_SIZE)
    image = {"file_name": label_file, "height": _SIZE[0], "width": _SIZE[1]}

    def run():
        evaluator.reset()
        evaluator.process([image], [{"sem_seg": scores}])

    return run


def make_ours(device) -> Callable[[], object]:
    return _scores_and_evaluator(HieraSemSegEvaluator)


def make_stock(device) -> Callable[[], object]:
    return _scores_and_evaluator(SemSegEvaluator)


EVALUATION = [
    Comparison(
        "evaluator, label maps of 2 levels with direct ones, 1024 x 2048",
        make_counts,
        make_bincount,
        "np.bincount of one matrix",
        max_time=2.0,
    ),
    Comparison(
        "evaluator, from 19 leaf scores, 1024 x 2048",
        make_ours,
        make_stock,
        "stock SemSegEvaluator",
        max_time=0.6,
    ),
]
