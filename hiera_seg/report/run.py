"""Write the report of a run from the files of its evaluation and predictions of some images."""

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn

from hiera_seg.config import resolve_hierarchy
from hiera_seg.data.json_files import read_json_file
from hiera_seg.errors import ConfigError, DatasetError, HierarchyError
from hiera_seg.evaluation import evaluation_folder, read_confusion
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference import HieraPredictor
from hiera_seg.modeling import HieraSegmentor, evaluation_mode
from hiera_seg.modeling.heads.loss import training_iteration
from hiera_seg.report.images import ReportImage
from hiera_seg.report.page import require_plotly, write_report
from hiera_seg.report.samples import SampleReader, spread_over

logger = logging.getLogger(__name__)

REPORT = "report.html"
SUMMARY = "hiera_metrics.json"


class SamplePredictor:
    """Predict the images of a dataset, and read their ground truth.

    Args:
        cfg: config of the model.
        model: with its weights.
        dataset_name: a registered dataset; without a tree there is no ground truth.
    """

    def __init__(self, cfg: CfgNode, model: HieraSegmentor, dataset_name: str):
        was_training = model.training
        self._predict = HieraPredictor(cfg, model)
        model.train(was_training)
        self._options = model.decode_options.labels_only()
        self._read = SampleReader(cfg, dataset_name, model.hierarchy)

    def __call__(self, record: dict[str, Any]) -> ReportImage:
        """Predict the image of a dataset's dict.

        Raises:
            DatasetError: a file cannot be read, or the sizes of image and labels differ.
        """
        image, truth = self._read(record)
        with evaluation_mode(self._predict.model):
            result = self._predict(record["file_name"], options=self._options, scores=True)
        scores = result["hiera_confidence"]
        return ReportImage(
            name=Path(record["file_name"]).name,
            image=image,
            labels=result["hiera_labels"][-1].cpu().numpy(),
            truth=truth,
            scores=torch.stack(list(scores)).float().cpu().numpy(),
        )


def check_reports(cfg: CfgNode) -> None:
    """Raise ConfigError if TEST.REPORT is set and plotly is not installed."""
    if cfg.TEST.REPORT:
        require_plotly()


def report_evaluation(cfg: CfgNode, model: nn.Module, results: dict[str, Any]) -> list[Path]:
    """Write the reports of an evaluation that has just finished, one per dataset of DATASETS.TEST.

    Errors are logged, because a report should not stop a training. A report has images only of a
    HieraSegmentor; its curves end with the results of the evaluation.

    Returns:
        The files.
    """
    notes, newest = [], []
    if not isinstance(model, HieraSegmentor):
        notes.append("No images: the model is not a HieraSegmentor.")
    iteration = training_iteration()
    if iteration is not None:  # metrics.json does not have these results yet
        newest.append(json.dumps({"iteration": iteration, **flatten_results_dict(results)}))
    paths = []
    for name in cfg.DATASETS.TEST:
        try:
            drawn = None if notes else model
            path = report_run(cfg, dataset_name=name, model=drawn, notes=notes, newest_lines=newest)
        except (ConfigError, DatasetError, HierarchyError, OSError) as error:
            logger.error(f"{name}: no report: {error}")
            continue
        logger.info(f"report of {name}: {path}")
        paths.append(path)
    return paths


def report_run(
    cfg: CfgNode,
    *,
    dataset_name: str | None = None,
    output: str | os.PathLike | None = None,
    model: HieraSegmentor | None = None,
    num_images: int | None = None,
    notes: Sequence[str] = (),
    newest_lines: Sequence[str] = (),
) -> Path:
    """Write the html report of a run's last evaluation.

    Args:
        cfg: config of the run. OUTPUT_DIR holds the files of training and evaluation.
        dataset_name: one of DATASETS.TEST; default: the first.
        output: the file; default: ``report.html`` in the folder of the evaluation.
        model: predicts the images; without it the report has none.
        num_images: number of images; default: TEST.REPORT_IMAGES.
        notes: sentences to show at the top.
        newest_lines: lines that ``metrics.json`` does not have yet.

    Returns:
        The file.

    Raises:
        ConfigError: there is no evaluation, plotly is missing, or the file cannot be written.
        DatasetError: a file of the evaluation cannot be read.
        HierarchyError: the tree cannot be read.
    """
    dataset_name = dataset_name or next(iter(cfg.DATASETS.TEST), "")
    folder = last_evaluation(cfg, dataset_name)
    hierarchy, summary, matrices = _read_evaluation(folder, dataset_name, cfg)
    num_images = cfg.TEST.REPORT_IMAGES if num_images is None else num_images
    images, problems = [], []
    if model is not None and model.hierarchy != hierarchy:
        problems.append(
            f"No images: the tree of the model is {model.hierarchy.name!r}, that of the "
            f"evaluation {hierarchy.name!r}."
        )
    elif model is not None and num_images > 0:
        images, problems = _images(cfg, model, dataset_name, num_images)
    for problem in problems:
        logger.warning(problem)
    return write_report(
        folder / REPORT if output is None else output,
        hierarchy,
        summary,
        matrices,
        images=images,
        metrics_lines=[*_read_lines(Path(cfg.OUTPUT_DIR) / "metrics.json"), *newest_lines],
        max_iter=cfg.SOLVER.MAX_ITER,
        safe_depth=_read_json(folder / "safe_depth.json"),
        calibration=_read_json(folder / "calibration.json"),
        notes=[*notes, *problems],
    )


def report_folder(
    folder: str | os.PathLike, output: str | os.PathLike, *, notes: Sequence[str] = ()
) -> Path:
    """Write the html report of an evaluation without a run: tables and matrices, no images.

    Args:
        folder: where the evaluator wrote its files.
        output: the html file.
        notes: sentences to show at its top.

    Returns:
        The file.

    Raises:
        ConfigError: there is no evaluation, plotly is missing, or the file cannot be written.
        DatasetError: a file of the evaluation cannot be read.
    """
    return write_report(output, *_read_evaluation(Path(folder)), notes=notes)


def last_evaluation(cfg: CfgNode, dataset_name: str) -> Path:
    """Return the folder of a run's last evaluation of a dataset, or the one where it would be.

    The evaluation may have had other test sets than the config, and therefore another folder.
    """
    places = [Path(evaluation_folder(cfg, dataset_name)), Path(cfg.OUTPUT_DIR)]
    if dataset_name:
        places.append(places[1] / "inference" / dataset_name)
    found = []
    for place in places:
        with contextlib.suppress(ConfigError):  # there is none, or of another dataset
            read_summary(place, dataset_name)
            found.append(place)
    return max(found, key=lambda place: (place / SUMMARY).stat().st_mtime, default=places[0])


def read_summary(folder: Path, dataset_name: str = "") -> dict[str, Any]:
    """Read the ``hiera_metrics.json`` of an evaluation of a dataset; "" accepts any dataset.

    Raises:
        ConfigError: there is no such file, or it is of another dataset.
        DatasetError: it cannot be read.
    """
    summary = _read_json(folder / SUMMARY)
    if summary is None:
        raise ConfigError(
            f"{folder}: no evaluation, {SUMMARY} does not exist; run tools/train_net.py "
            "--eval-only --resume, or specify another folder"
        )
    if not isinstance(summary, dict) or not isinstance(summary.get("metrics"), dict):
        raise DatasetError(f"{folder / SUMMARY}: no 'metrics'; evaluate again")
    scored = summary.get("dataset", dataset_name)
    if dataset_name and scored != dataset_name:
        raise ConfigError(
            f"{folder}: the evaluation is of {scored}, not of {dataset_name}; evaluate both into "
            "separate folders with tools/train_net.py --config-file ... --eval-only --resume "
            f"DATASETS.TEST \"('{scored}', '{dataset_name}')\""
        )
    return summary


def _read_evaluation(
    folder: Path, dataset_name: str = "", cfg: CfgNode | None = None
) -> tuple[Hierarchy, dict[str, Any], list[np.ndarray]]:
    """Return the tree, the summary and the matrices of an evaluation.

    Files of old versions have no tree; theirs is that of the config.
    """
    summary = read_summary(folder, dataset_name)
    if "hierarchy" in summary or cfg is None:
        try:
            hierarchy = Hierarchy.from_dict(**summary["hierarchy"])
        except (KeyError, TypeError) as error:
            raise HierarchyError(
                f"{folder / SUMMARY}: 'hierarchy' is not a tree: {error}"
            ) from error
    else:
        hierarchy = resolve_hierarchy(cfg)
    levels = range(hierarchy.num_levels)
    return hierarchy, summary, [_read_matrix(folder, hierarchy, level) for level in levels]


def _images(
    cfg: CfgNode, model: HieraSegmentor, dataset_name: str, num: int
) -> tuple[list[ReportImage], list[str]]:
    """Predict images of a dataset; also return a sentence about each that failed."""
    try:
        predict = SamplePredictor(cfg, model, dataset_name)
        records = spread_over(dataset_name, num).values()
    except (DatasetError, KeyError) as error:
        return [], [f"No images: {error}"]
    images, problems = [], []
    for record in records:
        try:
            images.append(predict(record))
        except DatasetError as error:
            problems.append(f"An image is missing: {error}")
    return images, problems


def _read_matrix(folder: Path, hierarchy: Hierarchy, level: int) -> np.ndarray:
    path = folder / f"confusion_{hierarchy.level_names[level]}.npz"
    names = [hierarchy.display_names[v] for v in hierarchy.level_nodes(level)]
    matrix, classes = read_confusion(path)
    if classes != names:
        raise DatasetError(
            f"{path} has {len(classes)} classes ({', '.join(classes[:3])}, ...), but level "
            f"{hierarchy.level_names[level]!r} of tree {hierarchy.name!r} has {len(names)}; "
            "evaluate again"
        )
    return matrix


def _read_json(path: Path) -> Any:
    """Return the content of a json file; None if it does not exist."""
    return read_json_file(str(path)) if path.exists() else None


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # there was no training
        return []
