"""What hierarchy costs: cases that time ours against a flat counterpart in one run."""

from hiera_seg.engine.benchmark.evaluation import EVALUATION
from hiera_seg.engine.benchmark.harness import Comparison, Result, as_rows, measure, table
from hiera_seg.engine.benchmark.inference import INFERENCE
from hiera_seg.engine.benchmark.losses import LOSSES
from hiera_seg.engine.benchmark.training import TRAINING

GROUPS: dict[str, list[Comparison]] = {
    "losses": LOSSES,
    "train": TRAINING,
    "eval": EVALUATION,
    "inference": INFERENCE,
}

__all__ = ["GROUPS", "Comparison", "Result", "as_rows", "measure", "table"]
