"""Reports of a run: from the files that an evaluation wrote, and a look at some images."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn

from hiera_seg.config import WIDE_IGNORE_VALUE, resolve_hierarchy
from hiera_seg.data import LabelReader
from hiera_seg.data.image_files import check_same_size
from hiera_seg.data.images import ImageReader
from hiera_seg.errors import ConfigError, DatasetError, HierarchyError
from hiera_seg.evaluation import evaluation_folder
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference import HieraPredictor
from hiera_seg.modeling import HieraSegmentor
from hiera_seg.modeling.heads.loss import training_iteration

if TYPE_CHECKING:  # drawing needs OpenCV, which training does without
    from hiera_seg.report.images import ReportImage

logger = logging.getLogger(__name__)

REPORT = "report.html"
SUMMARY = "hiera_metrics.json"


def spread_over(dataset_name: str, num: int) -> list[dict[str, Any]]:
    """At most `num` dicts spread evenly over a dataset, the same ones each time.

    Raises:
        DatasetError: the dataset is empty, or its files are not there.
    """
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise DatasetError(f"dataset {dataset_name!r} is empty")
    chosen = np.unique(np.linspace(0, len(records) - 1, num).round().astype(int)) if num else []
    return [records[index] for index in chosen]


class SamplePredictor:
    """Predicts images of a dataset beside their ground truth, as a config says."""

    def __init__(self, cfg: CfgNode, model: HieraSegmentor, dataset_name: str):
        """
        Args:
            cfg: of the model.
            model: with its weights.
            dataset_name: a registered dataset; without a tree there is no ground truth.
        """
        was_training = model.training
        self._predict = HieraPredictor(cfg, model)
        model.train(was_training)  # it goes on with training afterwards
        self._read_image = ImageReader.from_config(cfg, "RGB")
        self._read_truth = None
        meta = MetadataCatalog.get(dataset_name)
        if meta.get("hierarchy") is not None:
            reader = LabelReader.from_metadata(meta, cfg.INPUT.EXIF)
            if reader.hierarchy != model.hierarchy:
                reader = reader.to_hierarchy(model.hierarchy, WIDE_IGNORE_VALUE)
            self._read_truth = reader

    def __call__(self, record: dict[str, Any]) -> "ReportImage":
        """Predict the image of a dataset's dict.

        Raises:
            DatasetError: a file can not be read, or two do not fit.
        """
        from hiera_seg.report.images import ReportImage

        file_name = record["file_name"]
        image = self._read_image(file_name)
        truth = None
        if self._read_truth is not None and "sem_seg_file_name" in record:
            truth_file = record["sem_seg_file_name"]
            truth = self._read_truth(truth_file)
            check_same_size(file_name, image.shape[:2], truth_file, truth.shape)
        with labels_alone(self._predict.model):
            result = self._predict(np.ascontiguousarray(image[:, :, ::-1]), scores=True)
        scores = result["hiera_scores"]
        return ReportImage(
            name=Path(file_name).name,
            image=image,
            labels=result["hiera_labels"][-1].cpu().numpy(),
            truth=truth,
            scores=torch.stack(list(scores)).float().cpu().numpy(),
        )


@contextmanager
def labels_alone(model: HieraSegmentor) -> Iterator[None]:
    """Let a model predict, in eval, the labels of paths and nothing that costs more."""
    wanted = {"output": "labels", "direct": False, "path_scores": False, "walk": False}
    before = {name: getattr(model, name) for name in wanted}
    was_training = model.training
    try:
        for name, value in wanted.items():
            setattr(model, name, value)
        model.eval()
        # In full precision, as in a test; and in older versions of torch what autocast keeps of a
        # prediction without gradients would cost a step around it those of all weights
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)
        model.train(was_training)


def check_reports(cfg: CfgNode) -> None:
    """Say now, and not after hours of training, that reports can not be written.

    Raises:
        ConfigError: TEST.REPORT is on, and plotly or OpenCV is not installed.
    """
    if cfg.TEST.REPORT:
        try:
            from hiera_seg.report.page import require_plotly
        except ImportError as error:
            raise ConfigError(f"TEST.REPORT: {error}") from error
        require_plotly()


def report_evaluation(cfg: CfgNode, model: nn.Module, results: dict[str, Any]) -> list[Path]:
    """Write the reports of an evaluation that has just ended, one a dataset of DATASETS.TEST.

    What keeps one from being written is logged: it does not end a training.

    Args:
        cfg: with TEST.REPORT_IMAGES.
        model: what was evaluated; a HieraSegmentor, or there are no images.
        results: of the evaluation, for the newest point of the curves.

    Returns:
        The files.
    """
    notes = [] if isinstance(model, HieraSegmentor) else ["No images: the model has no levels."]
    newest = []
    iteration = training_iteration()
    if iteration is not None:  # the writers have not seen these numbers yet
        point = {"iteration": iteration, **flatten_results_dict(results)}
        newest.append(json.dumps(point))
    paths = []
    for name in cfg.DATASETS.TEST:
        try:
            path = report_run(
                cfg,
                dataset_name=name,
                model=None if notes else model,
                notes=notes,
                newest_lines=newest,
            )
        except (ConfigError, DatasetError, HierarchyError, OSError) as error:
            logger.error(f"No report of {name}: {error}")
            continue
        logger.info(f"Report of {name}: {path}")
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
        cfg: of the run; OUTPUT_DIR holds what training and evaluation wrote.
        dataset_name: which of DATASETS.TEST; default the first.
        output: the file; default ``report.html`` beside the evaluation's files.
        model: to predict images with; without it the report has none.
        num_images: default TEST.REPORT_IMAGES.
        notes: sentences to show at its top.
        newest_lines: of ``metrics.json``, not written yet.

    Returns:
        The file.

    Raises:
        ConfigError: there is no evaluation, plotly is missing, or the file can not be written.
        DatasetError: a file of the evaluation can not be read.
        HierarchyError: the tree can not be told.
    """
    from hiera_seg.report.page import write_report

    if dataset_name is None:
        dataset_name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
    folder = Path(evaluation_folder(cfg, dataset_name))
    summary = read_summary(folder, dataset_name)
    hierarchy = summary_hierarchy(summary, cfg)
    matrices = [_read_matrix(folder, hierarchy, level) for level in range(hierarchy.num_levels)]
    notes = list(notes)
    num_images = cfg.TEST.REPORT_IMAGES if num_images is None else num_images
    images = []
    if model is not None and num_images > 0:
        if model.hierarchy == hierarchy:
            images, problems = _images(cfg, model, dataset_name, num_images)
        else:
            problems = [
                f"No images: the model's tree {model.hierarchy.name!r} is not the one that was "
                f"scored, {hierarchy.name!r}."
            ]
        for problem in problems:
            logger.warning(problem)
        notes += problems
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
        notes=notes,
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
    from hiera_seg.report.page import write_report

    folder = Path(folder)
    summary = read_summary(folder)
    hierarchy = Hierarchy.from_dict(**summary["hierarchy"])
    matrices = [_read_matrix(folder, hierarchy, level) for level in range(hierarchy.num_levels)]
    return write_report(output, hierarchy, summary, matrices, notes=notes)


def read_summary(folder: Path, dataset_name: str = "") -> dict[str, Any]:
    """What the evaluator wrote into ``hiera_metrics.json``.

    Args:
        folder: where it wrote to.
        dataset_name: what is to have been evaluated; "" for whatever was.

    Raises:
        ConfigError: there is no such file, or it is of another dataset.
        DatasetError: it can not be read.
    """
    summary = _read_json(folder / SUMMARY)
    if summary is None:
        raise ConfigError(
            f"no evaluation in {folder}: there is no {SUMMARY}; run tools/train_net.py "
            "--eval-only --resume, or name the folder that it wrote to"
        )
    if not isinstance(summary, dict) or not isinstance(summary.get("metrics"), dict):
        raise DatasetError(f"{folder / SUMMARY} is not what an evaluation writes: no 'metrics'")
    scored = summary.get("dataset", dataset_name)
    if dataset_name and scored != dataset_name:
        raise ConfigError(
            f"the evaluation in {folder} is of {scored}, not of {dataset_name}; evaluate both, "
            "which gives each a folder of its own: tools/train_net.py --config-file ... "
            f"--eval-only --resume DATASETS.TEST \"('{scored}', '{dataset_name}')\""
        )
    return summary


def summary_hierarchy(summary: dict[str, Any], cfg: CfgNode) -> Hierarchy:
    """The tree that was scored: stored beside the numbers, or by older versions the config's."""
    if "hierarchy" in summary:
        try:
            return Hierarchy.from_dict(**summary["hierarchy"])
        except TypeError as error:
            raise HierarchyError(f"'hierarchy' of {SUMMARY} is no tree: {error}") from error
    return resolve_hierarchy(cfg)


def _images(
    cfg: CfgNode, model: HieraSegmentor, dataset_name: str, num: int
) -> tuple[list["ReportImage"], list[str]]:
    """Images of a dataset, and a sentence about each that could not be had."""
    images, problems = [], []
    try:
        predict = SamplePredictor(cfg, model, dataset_name)
        records = spread_over(dataset_name, num)
    except (DatasetError, KeyError) as error:
        return [], [f"No images: {error}"]
    for record in records:
        try:
            images.append(predict(record))
        except DatasetError as error:
            problems.append(f"An image was left out: {error}")
    return images, problems


def _read_matrix(folder: Path, hierarchy: Hierarchy, level: int) -> np.ndarray:
    path = folder / f"confusion_{hierarchy.level_names[level]}.npz"
    names = [hierarchy.display_names[v] for v in hierarchy.level_nodes(level)]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            matrix, classes = arrays["matrix"], arrays["classes"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{path} can not be read ({type(error).__name__}: {error}); evaluate again"
        ) from error
    if classes != names or matrix.shape != (len(names) + 1, len(names)):
        raise DatasetError(
            f"{path} holds {len(classes)} classes ({', '.join(classes[:3])}, ...), not the "
            f"{len(names)} of level {hierarchy.level_names[level]!r} of tree {hierarchy.name!r}; "
            "is it of another evaluation?"
        )
    return matrix.astype(np.int64)


def _read_json(path: Path) -> Any:
    """The content of a json file; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} can not be read: {error}") from error


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # an evaluation without training has none
        return []
