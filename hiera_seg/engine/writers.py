"""Log a summary and the metrics of a run, with errors that name the file."""

import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from torch import nn

from hiera_seg.config import resolve_hierarchy
from hiera_seg.config.checks import is_installed
from hiera_seg.data.records import iterate_records
from hiera_seg.disk import discard_pending, naming

logger = logging.getLogger(__name__)


class MetricsFile(JSONWriter):
    """Write ``metrics.json``, with errors that name the file."""

    def __init__(self, path: str):
        super().__init__(path)
        self._path = path

    def write(self) -> None:
        try:
            with naming(self._path):
                super().write()
        except OSError:
            discard_pending(self._file_handle)
            raise


class TensorboardFile(TensorboardXWriter):
    """Write tensorboard events, with errors that name the file."""

    def __init__(self, folder: str):
        # The name of the file has the time and the process id
        self._path = os.path.join(folder, "events.out.tfevents.*")
        with naming(self._path):
            super().__init__(folder)

    def write(self) -> None:
        with naming(self._path):
            super().write()

    def close(self) -> None:
        with naming(self._path):
            super().close()


def log_summary(cfg: CfgNode, model: nn.Module | None = None) -> None:
    """Log the datasets, class tree, model and schedule of a run, in a few lines.

    Without a model, which is for an evaluation, only the test sets and the tree are logged.

    Raises:
        DatasetError: the files of a dataset cannot be listed.
    """
    for key in ("TEST",) if model is None else ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            images = sum(1 for _ in iterate_records([name]))
            logger.info(f"{key.lower()} set: {name}, {images} images")
    tree = resolve_hierarchy(cfg)
    logger.info(
        f"class tree: {tree.name or '(unnamed)'}, {tree.num_leaves} leaves and "
        f"{tree.num_nodes - tree.num_leaves} inner nodes at {tree.num_levels} levels "
        f"({', '.join(tree.level_names)})"
    )
    if model is None:
        return
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(
        f"model: {cfg.MODEL.SEM_SEG_HEAD.NAME} on {cfg.MODEL.BACKBONE.NAME}, {total / 1e6:.1f} M "
        f"parameters, {trained / 1e6:.1f} M of them trained"
    )
    terms = ", ".join(f"{weight} {name}" for name, weight in cfg.MODEL.HIERA_SEG.LOSSES)
    if terms:
        logger.info(f"losses: {terms}")
    logger.info(
        f"schedule: {cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images, "
        f"{cfg.SOLVER.OPTIMIZER}, learning rate {cfg.SOLVER.BASE_LR:g}"
    )
    period = cfg.TEST.EVAL_PERIOD
    logger.info(f"evaluation: {f'every {period} iterations' if period > 0 else 'at the end'}")


class _ClearImages(EventWriter):
    """Drop the images that the writers before it have written."""

    def write(self) -> None:
        get_event_storage().clear_images()


def build_writers(
    folder: str, max_iter: int, trackers: Sequence[EventWriter] = (), *, tensorboard: bool = True
) -> list[EventWriter]:
    """Build the writers of a run: console, ``metrics.json``, trackers and tensorboard.

    The console estimates the time to `max_iter`. Trackers take images, which the last writer
    clears. Tensorboard gets events if it is installed.
    """
    os.makedirs(folder, exist_ok=True)
    metrics = MetricsFile(os.path.join(folder, "metrics.json"))
    writers = [CommonMetricPrinter(max_iter), metrics, *trackers]
    if tensorboard and is_installed("tensorboard"):
        return [*writers, TensorboardFile(folder)]
    if tensorboard:
        logger.info("tensorboard is not installed and gets no metrics; `pip install tensorboard`")
    return [*writers, _ClearImages()]
