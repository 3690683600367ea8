"""Evaluate during training: record the metrics, keep the best weights, stop early."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer, read_file
from hiera_seg.disk import json_data, replace_text
from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.hierarchy.messages import suggestion

logger = logging.getLogger(__name__)

RECORD = "evaluations.jsonl"
BEST = "model_best"


def _is_better(new: float, old: float | None, mode: str) -> bool:
    """Return whether a metric has improved; a value that is not finite never has."""
    if not math.isfinite(new):
        return False
    return old is None or (new > old if mode == "max" else new < old)


class WeightsFile(HieraCheckpointer):
    """Write weights without naming them in ``last_checkpoint``, from which runs resume."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass


class EvaluationRecord:
    """Record the metrics of every evaluation in ``evaluations.jsonl``, one line of json each.

    A line is written immediately after its evaluation, not with the next checkpoint; an interrupted
    run therefore loses no metrics.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: str):
        self.path = Path(folder) / RECORD
        self.lines: list[dict[str, Any]] = []

    def open(self, start_iter: int) -> None:
        """Read the evaluations of the first `start_iter` iterations; later ones are repeated."""
        self.lines = []
        if not self.path.is_file():
            return
        if start_iter == 0:
            self._write()
            return
        for text in self.path.read_text().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # not a whole line
                line = json.loads(text)
                if line["iteration"] <= start_iter:
                    self.lines.append(line)

    def add(self, iteration: int, metrics: dict[str, float]) -> None:
        """Add the evaluation after `iteration` iterations; replace an earlier one of the same."""
        self.lines = [line for line in self.lines if line["iteration"] < iteration]
        self.lines.append({"iteration": iteration, **json_data(metrics)})
        self._write()

    def values(self, metric: str) -> list[tuple[int, float]]:
        """Return (iteration, value) of all evaluations with a metric; NaN if it is not finite."""
        found = [(line["iteration"], line[metric]) for line in self.lines if metric in line]
        return [(i, math.nan if value is None else value) for i, value in found]

    def _write(self) -> None:
        replace_text(self.path, "".join(f"{json.dumps(line)}\n" for line in self.lines))


@dataclass
class BestWeights:
    """Keep the weights of the best evaluation in ``model_best.pth``.

    The file holds them under "model", as MODEL.WEIGHTS expects, with the "metric", "mode", "value"
    and "iteration", from which a resumed run reads the best value so far.

    Args:
        folder: folder of the run.
        metric: name of a metric of the evaluation.
        mode: "max" if higher is better, or "min".
        value: the best value so far; None before the first evaluation.
        iteration: number of iterations before it.
    """

    folder: str
    metric: str
    mode: str
    value: float | None = None
    iteration: int = 0

    def open(self, start_iter: int) -> None:
        """Read the best value after `start_iter` iterations; 0 renames the file of a former run."""
        path = Path(self.folder) / f"{BEST}.pth"
        if not path.is_file():
            return
        if start_iter == 0:
            renamed, number = path.with_name(f"{BEST}_of_an_earlier_run.pth"), 2
            while renamed.exists():
                renamed = path.with_name(f"{BEST}_of_an_earlier_run_{number}.pth")
                number += 1
            os.replace(path, renamed)
            logger.info(f"{path.name} is of an earlier run; renamed it to {renamed.name}")
            return
        try:
            found = read_file(path)
            known = found["metric"], found["mode"], found["value"], found["iteration"]
        except (CheckpointError, KeyError, TypeError) as error:
            logger.warning(f"{path} has no best value ({error}); the next evaluation replaces it")
            return
        if known[:2] == (self.metric, self.mode):
            self.value, self.iteration = known[2:]
            logger.info(f"{self}")
        else:
            logger.info(f"{path} is best by {known[0]} ({known[1]}), not by {self.metric}")

    def see(self, value: float, iteration: int, model: nn.Module) -> None:
        """Save the weights of the evaluated model if `value` is better than all values before."""
        if not _is_better(value, self.value, self.mode):
            return
        self.value, self.iteration = value, iteration
        extra = {"metric": self.metric, "mode": self.mode, "value": value, "iteration": iteration}
        WeightsFile(model, self.folder).save(BEST, **extra)
        logger.info(f"{self}")

    def __str__(self) -> str:
        return f"Best {self.metric} so far: {self.value:.5g} after {self.iteration} iterations"


@dataclass(frozen=True)
class EarlyStopping:
    """Decide when a metric has not improved for `patience` evaluations in a row.

    Args:
        metric: name of a metric of the evaluation.
        mode: "max" if higher is better, or "min".
        patience: number of evaluations without improvement that stop the training, 1 or more.
    """

    metric: str
    mode: str
    patience: int

    def reason(self, values: Sequence[tuple[int, float]]) -> str | None:
        """Return the reason to stop, or None, from the values of :class:`EvaluationRecord`."""
        best, since = None, 0
        for iteration, value in values:
            if _is_better(value, best and best[1], self.mode):
                best, since = (iteration, value), 0
            else:
                since += 1
        if since < self.patience:
            return None
        was = "never finite" if best is None else f"best after {best[0]} iterations: {best[1]:.5g}"
        return (
            f"{self.metric} did not improve in {since} evaluations ({was}; "
            f"TEST.EARLY_STOPPING.PATIENCE is {self.patience})"
        )


class Evaluation(EvalHook):
    """Evaluate periodically and at the end, record the metrics, keep the best weights, stop early.

    Its trainer has ``run_evaluation()`` and ``evaluated_model``, and stops when its
    ``stop_reason`` is set. If the run was killed between a checkpoint and the evaluation due at the
    same iteration, that evaluation is run first on resume.

    Args:
        period: number of iterations between evaluations; 0 evaluates only at the end.
        folder: folder of the run.

    Attributes:
        best: keeps the best weights, or None.
        stopping: decides when to stop early, or None.
    """

    def __init__(self, period: int, folder: str):
        super().__init__(period, None)
        self.record = EvaluationRecord(folder)
        self.best: BestWeights | None = None
        self.stopping: EarlyStopping | None = None

    def before_train(self) -> None:
        start = self.trainer.start_iter
        is_missing = False
        if comm.is_main_process():
            self.record.open(start)
            if self.best is not None:
                self.best.open(start)
            names = self.trainer.cfg.DATASETS.TEST
            due = names and self._period > 0 and start % self._period == 0
            is_there = any(line["iteration"] == start for line in self.record.lines)
            is_missing = due and 0 < start < self.trainer.max_iter and not is_there
        if _of_main_process(is_missing):
            logger.info(f"The evaluation after {start} iterations was interrupted; running it now")
            self.trainer.storage.iter = start - 1  # the iteration at which it was due
            self._evaluate(start)
            self.trainer.storage.iter = start
        else:
            self._decide_to_stop()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate(done)

    def after_train(self) -> None:
        # EvalHook would also evaluate if the last iteration failed
        if self.trainer.iter >= self.trainer.max_iter:
            # A run resumed with a smaller MAX_ITER has done more iterations than that
            self._evaluate(max(self.trainer.start_iter, self.trainer.max_iter))

    def _evaluate(self, iteration: int) -> None:
        self._do_eval()
        problem, metrics = None, self._metrics
        if comm.is_main_process():
            needed = [part.metric for part in (self.best, self.stopping) if part is not None]
            missing = [name for name in needed if name not in metrics]
            if missing:
                problem = _unknown_metric(missing[0], metrics)
            elif self.best is not None:
                model = self.trainer.evaluated_model
                self.best.see(metrics[self.best.metric], iteration, model)
            if metrics and not missing:
                self.record.add(iteration, metrics)
        problem = _of_main_process(problem)
        if problem:
            raise ConfigError(problem)
        self._decide_to_stop()

    def _do_eval(self) -> None:
        results = self.trainer.run_evaluation()
        self._metrics = {k: float(v) for k, v in flatten_results_dict(results).items()}
        self.trainer.storage.put_scalars(**self._metrics, smoothing_hint=False)
        comm.synchronize()  # evaluation takes longer on some processes

    def _decide_to_stop(self) -> None:
        if self.stopping is None:
            return
        reason = self.stopping.reason(self.record.values(self.stopping.metric))
        self.trainer.stop_reason = _of_main_process(reason)


def check_metrics(cfg: CfgNode, evaluators: dict[str, DatasetEvaluator]) -> None:
    """Raise ConfigError if no evaluation computes the metric of BEST_CHECKPOINT or EARLY_STOPPING.

    The metrics of an evaluator without the attribute ``metric_names`` are known only after the
    first evaluation, and checked then. Evaluators are given by the name of their test set.
    """
    known: list[str] = []
    for name, evaluator in evaluators.items():
        if not hasattr(evaluator, "metric_names"):
            return
        prefix = f"{name}/" if len(evaluators) > 1 else ""
        known += [f"{prefix}{evaluator.task}/{metric}" for metric in evaluator.metric_names]
        if cfg.TEST.VALIDATION_LOSS:
            known.append(f"{prefix}validation_loss")
    for keys in (cfg.TEST.BEST_CHECKPOINT, cfg.TEST.EARLY_STOPPING):
        is_term = cfg.TEST.VALIDATION_LOSS and "validation_loss_" in keys.METRIC
        if keys.METRIC and keys.METRIC not in known and not is_term:
            raise ConfigError(_unknown_metric(keys.METRIC, known))


def _unknown_metric(name: str, known: Iterable[str]) -> str:
    known = list(known)
    means = [key for key in known if "IoU-" not in key and "ACC-" not in key]  # not of classes
    ends = [key for key in means if key.endswith(f"/{name}")]
    nearest = suggestion(name, known if "-" in name else means, ends)
    return f"TEST.BEST_CHECKPOINT or TEST.EARLY_STOPPING: unknown metric {name!r}{nearest}"


def _of_main_process(value: Any) -> Any:
    """Return the value of the main process on all processes."""
    return comm.all_gather(value)[0]
