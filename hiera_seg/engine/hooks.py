"""What happens at an evaluation of a run: records, the best weights, early stopping."""

import difflib
import itertools
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from hiera_seg.checkpoint import HieraCheckpointer, read_file
from hiera_seg.disk import replace_text
from hiera_seg.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

RECORD = "evaluations.jsonl"
BEST = "model_best"
_BETTER = {"max": lambda new, old: new > old, "min": lambda new, old: new < old}


class WeightsFile(HieraCheckpointer):
    """Writes weights beside the checkpoints that a run resumes from, and never names them last."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass


class EvaluationRecord:
    """The metrics of every evaluation of a run, a line of json each, in ``evaluations.jsonl``.

    It is written at once and not with the next checkpoint, so that an interrupted run knows what
    it had found.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str):
        self.path = Path(folder) / RECORD
        self.lines: list[dict[str, Any]] = []

    def open(self, start_iter: int) -> None:
        """Read the record up to an iteration; what came after it is going to come again.

        Args:
            start_iter: iterations that the run has behind it; 0 begins a new record.
        """
        self.lines = []
        if start_iter > 0 and self.path.is_file():
            read = [_read_line(line) for line in self.path.read_text().splitlines()]
            self.lines = [line for line in read if line and line["iteration"] <= start_iter]
        elif self.path.is_file():
            self._write()

    def add(self, iteration: int, metrics: dict[str, float]) -> None:
        """Add the evaluation after so many iterations; it replaces an earlier one of the same."""
        self.lines = [line for line in self.lines if line["iteration"] < iteration]
        plain = {k: value if math.isfinite(value) else None for k, value in metrics.items()}
        self.lines.append({"iteration": iteration, **plain})
        self._write()

    def has(self, iteration: int) -> bool:
        """Whether the evaluation after so many iterations is there."""
        return any(line["iteration"] == iteration for line in self.lines)

    def values(self, metric: str) -> list[tuple[int, float]]:
        """(iteration, value) of the evaluations that have a metric; NaN for any not finite."""
        found = [(line["iteration"], line[metric]) for line in self.lines if metric in line]
        return [(i, math.nan if value is None else value) for i, value in found]

    def _write(self) -> None:
        replace_text(self.path, "".join(f"{json.dumps(line)}\n" for line in self.lines))


class BestWeights:
    """Keeps the weights of the best evaluation in ``model_best.pth``.

    The file holds them under "model", as MODEL.WEIGHTS reads it, with the "metric", its "value"
    and the "iteration", so that a resumed run knows what to beat.
    """

    def __init__(self, folder: str, metric: str, mode: str):
        """
        Args:
            folder: of the run.
            metric: name of a number of the evaluation.
            mode: "max" or "min", which is best.
        """
        self.folder = folder
        self.metric = metric
        self.mode = mode
        self.value: float | None = None
        self.iteration = 0

    def open(self, start_iter: int) -> None:
        """Look up what is to be beaten.

        Args:
            start_iter: iterations that the run has behind it; at 0 a file that another run left
                is put aside.
        """
        path = Path(self.folder) / f"{BEST}.pth"
        if not path.is_file():
            return
        if start_iter == 0:
            ends = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
            names = (path.with_name(f"{BEST}_of_an_earlier_run{end}.pth") for end in ends)
            aside = next(name for name in names if not name.exists())
            os.replace(path, aside)
            logger.info(f"{path.name} is of an earlier run; it is now {aside.name}")
            return
        try:
            found = read_file(path)
            known = found["metric"], found["mode"], found["value"], found["iteration"]
        except (CheckpointError, KeyError, TypeError) as error:
            logger.warning(f"{path} tells no best value ({error}); the next evaluation replaces it")
            return
        if known[:2] == (self.metric, self.mode):
            self.value, self.iteration = known[2:]
            logger.info(f"{self}")
        else:
            logger.info(f"{path} is best by {known[0]} ({known[1]}); now {self.metric} decides")

    def see(self, value: float, iteration: int, model: nn.Module) -> None:
        """Save the weights if the value is better than all before.

        Args:
            value: of the metric; one that is not finite is never the best.
            iteration: iterations so far.
            model: what was evaluated.
        """
        if not math.isfinite(value):
            return
        if self.value is not None and not _BETTER[self.mode](value, self.value):
            return
        self.value, self.iteration = value, iteration
        extra = {"metric": self.metric, "mode": self.mode, "value": value, "iteration": iteration}
        WeightsFile(model, self.folder).save(BEST, **extra)
        logger.info(f"{self}")

    def __str__(self) -> str:
        return f"Best {self.metric} so far: {self.value:.5g} after {self.iteration} iterations"


class EarlyStopping:
    """Says when a metric has not become better for some evaluations in a row."""

    def __init__(self, metric: str, mode: str, patience: int):
        """
        Args:
            metric: name of a number of the evaluation.
            mode: "max" or "min", which is best.
            patience: evaluations without a better value that end the training, 1 or more.
        """
        self.metric = metric
        self.mode = mode
        self.patience = patience

    def reason(self, values: Sequence[tuple[int, float]]) -> str | None:
        """Why to stop after some evaluations, or None.

        Args:
            values: (iteration, value) of all evaluations so far. A value that is not finite is
                not better.
        """
        best, since = None, 0
        for iteration, value in values:
            if math.isfinite(value) and (best is None or _BETTER[self.mode](value, best[1])):
                best, since = (iteration, value), 0
            else:
                since += 1
        if since < self.patience:
            return None
        was = "never a number" if best is None else f"best at {best[0]}: {best[1]:.5g}"
        return (
            f"{self.metric} did not become better in {since} evaluations ({was}; "
            f"TEST.EARLY_STOPPING.PATIENCE is {self.patience})"
        )


class Evaluation(EvalHook):
    """Evaluates periodically and at the end, records it, keeps the best weights, stops early.

    The trainer has ``run_evaluation()``, ``evaluated_model``, and ends when its ``stop_reason`` is
    set. An evaluation that an interruption swallowed, because the checkpoint before it was written
    and it was not, comes first when the run goes on.
    """

    def __init__(
        self,
        period: int,
        folder: str,
        *,
        best: BestWeights | None = None,
        stopping: EarlyStopping | None = None,
    ):
        """
        Args:
            period: in iterations; 0 for the end only.
            folder: of the run.
            best: keeps the weights.
            stopping: decides.
        """
        super().__init__(period, None)
        self.record = EvaluationRecord(folder)
        self.best = best
        self.stopping = stopping

    def before_train(self) -> None:
        start = self.trainer.start_iter
        swallowed = False
        if comm.is_main_process():
            self.record.open(start)
            if self.best is not None:
                self.best.open(start)
            names = self.trainer.cfg.DATASETS.TEST
            due = names and self._period > 0 and start % self._period == 0
            swallowed = due and 0 < start < self.trainer.max_iter and not self.record.has(start)
        if _of_main_process(swallowed):
            logger.info(f"The evaluation after {start} iterations was interrupted; it comes first")
            self.trainer.storage.iter = start - 1  # where it would have been logged
            self._evaluate(start)
            self.trainer.storage.iter = start
        else:
            self._stop_or_go_on()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate(done)

    def after_train(self) -> None:
        # Detectron2's own would also evaluate after the last iteration failed
        if self.trainer.iter >= self.trainer.max_iter:
            # a resumed run may have done more than the max_iter that it is now given
            self._evaluate(max(self.trainer.start_iter, self.trainer.max_iter))

    def _evaluate(self, iteration: int) -> None:
        self._do_eval()
        problem = None
        if comm.is_main_process():
            metrics = self._metrics
            wanted = [part.metric for part in (self.best, self.stopping) if part is not None]
            missing = [name for name in wanted if name not in metrics]
            if missing:
                problem = unknown_metric(missing[0], metrics)
            else:
                if self.best is not None:
                    value = metrics[self.best.metric]
                    self.best.see(value, iteration, self.trainer.evaluated_model)
                if metrics:
                    self.record.add(iteration, metrics)
        problem = _of_main_process(problem)
        if problem:
            raise ConfigError(problem)
        self._stop_or_go_on()

    def _do_eval(self) -> None:
        results = self.trainer.run_evaluation()
        self._metrics = {k: float(v) for k, v in flatten_results_dict(results).items()}
        self.trainer.storage.put_scalars(**self._metrics, smoothing_hint=False)
        comm.synchronize()  # it may have taken longer elsewhere

    def _stop_or_go_on(self) -> None:
        if self.stopping is None:
            return
        reason = None
        if comm.is_main_process():
            reason = self.stopping.reason(self.record.values(self.stopping.metric))
        self.trainer.stop_reason = _of_main_process(reason)


def unknown_metric(name: str, known: Sequence[str]) -> str:
    """The message for a metric that an evaluation does not give."""
    # Classes come in great numbers; the means are what is meant most often
    means = [key for key in known if "IoU-" not in key and "ACC-" not in key]
    likely = known if "-" in name else means
    ranked = difflib.get_close_matches(name, likely, n=3, cutoff=0.5)
    shown = ranked or means
    return (
        f"metric {name!r} of TEST.BEST_CHECKPOINT or TEST.EARLY_STOPPING is not among what an "
        f"evaluation gives; {'nearest' if ranked else 'known'}: {', '.join(shown) or 'nothing'}"
    )


def _read_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("iteration"), int) else None


def _of_main_process(value: Any) -> Any:
    """What the main process has, on all of them."""
    return comm.all_gather(value)[0]


def check_metrics(cfg: CfgNode, evaluators: dict[str, DatasetEvaluator]) -> None:
    """Raise ConfigError for a metric to watch that no evaluation can give.

    What evaluators without the attribute ``metric_names`` give is seen at the first evaluation.

    Args:
        cfg: the config of the run.
        evaluators: of each test set, by name.
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
        a_term = cfg.TEST.VALIDATION_LOSS and "validation_loss_" in keys.METRIC
        if keys.METRIC and keys.METRIC not in known and not a_term:
            raise ConfigError(unknown_metric(keys.METRIC, known))
