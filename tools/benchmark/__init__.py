"""Measure the cost of the hierarchy: time this package and a flat counterpart in one run."""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)

# isort: split
from benchmark.evaluation import EVALUATION
from benchmark.harness import Comparison, Result, as_rows, measure, table
from benchmark.inference import INFERENCE
from benchmark.losses import LOSSES
from benchmark.training import TRAINING

GROUPS: dict[str, list[Comparison]] = {
    "losses": LOSSES,
    "train": TRAINING,
    "eval": EVALUATION,
    "inference": INFERENCE,
}

__all__ = ["GROUPS", "Comparison", "Result", "as_rows", "measure", "table"]
