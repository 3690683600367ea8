"""Log the metrics, images and config of a run to Weights & Biases or MLflow."""

import itertools
import logging
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from hiera_seg.config.checks import items_of
from hiera_seg.disk import replace_text
from hiera_seg.errors import ConfigError

logger = logging.getLogger(__name__)

PROJECT = "hiera_seg"  # W&B project and MLflow experiment, unless the environment names one
_WINDOW = 20  # iterations of median smoothing, as in Detectron2's writers


class Tracker(EventWriter):
    """Send what a run logs to an experiment tracker.

    The id of the tracker's run is kept in the file ``<name>_run_id`` of the output folder, so that
    a resumed training continues it. A tracker that fails during the training is reported once and
    does not end it.
    """

    name: str

    def __init__(self, cfg: CfgNode):
        self._cfg = cfg
        self._folder = Path(cfg.OUTPUT_DIR).absolute()
        self._last_write = -1
        self._is_open = self._has_failed = False

    def open(self, resume: bool) -> None:
        """Start a run of the tracker, or continue the one whose id is in the output folder.

        Raises:
            ConfigError: the tracker refuses, for example because nobody is logged in.
        """
        path = self._folder / f"{self.name}_run_id"
        run_id = path.read_text(encoding="utf-8") if resume and path.is_file() else None
        try:
            found = self._start(run_id)
        except Exception as error:
            advice = f"; delete {path} to start a new run of it" if run_id else ""
            raise ConfigError(f"LOGGERS: {self.name} cannot start: {error}{advice}") from error
        replace_text(path, found)
        self._is_open = True

    def write(self) -> None:
        """Send the metrics since the last call, and all images that no writer has cleared."""
        if not self._is_open:
            return
        storage = get_event_storage()
        new = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last_write:
                new[iteration][name] = value
        self._last_write = max(new, default=self._last_write)
        try:
            for iteration, metrics in sorted(new.items()):
                self._log_metrics(metrics, iteration)
            for name, image, iteration in storage._vis_data:
                self._log_image(name, _to_array(image), iteration)
        except Exception as error:
            if not self._has_failed:
                logger.error(f"{self.name}: some metrics or images are not logged: {error}")
            self._has_failed = True

    def close(self) -> None:
        """End the run of the tracker, as failed if the training ends by an error."""
        if self._is_open:
            self._is_open = False
            self._finish(failed=isinstance(sys.exc_info()[1], Exception))

    def _start(self, run_id: str | None) -> str:
        """Start or, with an id, continue a run with the config; return its id."""
        raise NotImplementedError

    def _log_metrics(self, metrics: dict[str, float], iteration: int) -> None:
        raise NotImplementedError

    def _log_image(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Log an RGB image (H, W, 3) of uint8."""
        raise NotImplementedError

    def _finish(self, failed: bool) -> None:
        raise NotImplementedError


class WandbTracker(Tracker):
    """Log to Weights & Biases, in the project "hiera_seg" unless WANDB_PROJECT is set."""

    name = "wandb"

    def _start(self, run_id: str | None) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", self._folder.name),
            dir=self._folder,
            id=run_id,
            resume="allow" if run_id else None,
        )
        self._run.config.update(yaml.safe_load(self._cfg.dump()), allow_val_change=True)
        # Not W&B's own step, which a resumed run cannot set back to that of its checkpoint
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def _log_metrics(self, metrics: dict[str, float], iteration: int) -> None:
        self._run.log({**metrics, "iteration": iteration})

    def _log_image(self, name: str, image: np.ndarray, iteration: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(image), "iteration": iteration})

    def _finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflowTracker(Tracker):
    """Log to MLflow, in the experiment "hiera_seg" unless MLFLOW_EXPERIMENT_NAME is set."""

    name = "mlflow"

    def _start(self, run_id: str | None) -> str:
        import mlflow

        self._client = mlflow
        if run_id is None:
            if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
                mlflow.set_experiment(PROJECT)
            run = mlflow.start_run(run_name=self._folder.name)
            for part in _in_parts(dict(items_of(self._cfg)), 100):
                mlflow.log_params(part)
        else:
            run = mlflow.start_run(run_id=run_id)
        # Parameters of a run are final; this file also has what a resumed training changes
        mlflow.log_text(self._cfg.dump(), "config.yaml")
        return run.info.run_id

    def _log_metrics(self, metrics: dict[str, float], iteration: int) -> None:
        allowed = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in metrics.items()}
        for part in _in_parts(allowed, 1000):
            self._client.log_metrics(part, step=iteration)

    def _log_image(self, name: str, image: np.ndarray, iteration: int) -> None:
        key = re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
        self._client.log_image(image, key=key, step=iteration, synchronous=True)

    def _finish(self, failed: bool) -> None:
        self._client.end_run("FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (WandbTracker, MLflowTracker)}


def _to_array(image: Any) -> np.ndarray:
    """Convert an image of an EventStorage, (3, H, W) of uint8 or of floats in [0, 1]."""
    array = np.moveaxis(np.asarray(image), 0, -1)
    return array if array.dtype == np.uint8 else (255 * array).astype(np.uint8)


def _in_parts(items: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Split a dict into parts of at most `size` items, the limit of a request to MLflow."""
    pairs = iter(items.items())
    while part := dict(itertools.islice(pairs, size)):
        yield part
