"""Evaluate predictions per level, as a Detectron2 evaluator around hiera_seg.metrics."""

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from hiera_seg.config import WIDE_IGNORE_VALUE, resolve_hierarchy
from hiera_seg.data.catalog import check_metric_names, resolve_unscored
from hiera_seg.data.image_files import check_same_size
from hiera_seg.data.labels import LabelReader
from hiera_seg.data.regions import RegionLabels, encode_labels
from hiera_seg.disk import json_data, replace_text
from hiera_seg.errors import DatasetError
from hiera_seg.evaluation.confusion_files import write_confusion
from hiera_seg.evaluation.image_counts import FILE_NAME, ImageCounts
from hiera_seg.evaluation.parts import BoundaryQuality, Calibration, SelectivePrediction, as_numpy
from hiera_seg.evaluation.tables import report
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import (
    Cells,
    HierarchyScores,
    PathCounts,
    hierarchy_scores,
    level_cells,
    score_names,
)
from hiera_seg.modeling.paths import best_channel

logger = logging.getLogger(__name__)


class HieraSemSegEvaluator(DatasetEvaluator):
    """Compute scores per level, and the tree distance of mistakes.

    docs/metrics.md defines the scores and the keys of the result. Predictions are read from
    ``hiera_labels[-1]``, or from ``sem_seg`` (leaf scores) if that is absent, so that any semantic
    segmentation model can be evaluated. Direct scores need ``hiera_labels_direct``, calibration
    needs ``hiera_confidence``, and the curve over safe depths ``hiera_greedy_path``.

    Args:
        dataset_name: a dataset whose metadata has a tree (``register_hierarchical_dataset``).
        distributed: False evaluates this process's images only; otherwise the counts of all
            processes are added up on the main process.
        output_dir: folder for ``hiera_metrics.json``, one ``confusion_<level>.npz`` per level,
            ``image_counts.npz`` for comparisons of runs, and ``calibration.json`` and
            ``safe_depth.json`` if the model's output allows them.
        task: the key of the result; pass "hiera_sem_seg" beside a stock SemSegEvaluator, which uses
            "sem_seg".
        hierarchy: the model's tree if it differs from the dataset's; ground truth is mapped to it
            by the paths of nodes.
        exif: as INPUT.EXIF of the model's config: "apply" rotates label files by their EXIF
            orientation.
        save_predictions: also write ``hiera_predictions.json`` to ``output_dir``: a list of
            ``{"file_name", "category_id": node id, "segmentation": COCO RLE}``.
        boundary_iou: also compute the Boundary IoU of each level
            (MODEL.HIERA_SEG.TEST.BOUNDARY_IOU).

    Raises:
        DatasetError: the dataset has no tree; or `hierarchy` lacks one of its nodes, or would give
            two metrics the same name.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool | None = None,
        output_dir: str | None = None,
        *,
        task: str = "sem_seg",
        hierarchy: Hierarchy | None = None,
        exif: str = "apply",
        save_predictions: bool = False,
        boundary_iou: bool = False,
    ) -> None:
        if save_predictions and not output_dir:
            raise ValueError(
                "save_predictions is True, but output_dir is empty; pass an output_dir"
            )
        self.dataset_name = dataset_name
        self.task = task
        self._distributed = distributed is not False
        self._output_dir = output_dir
        self._save_predictions = save_predictions
        self._boundary_iou = boundary_iou
        meta = MetadataCatalog.get(dataset_name)
        self._read_truth = LabelReader.from_metadata(meta, exif)
        own = self.hierarchy = self._read_truth.hierarchy
        if hierarchy is not None and hierarchy != own:
            self.hierarchy = hierarchy
            self._read_truth = self._read_truth.to_hierarchy(hierarchy, WIDE_IGNORE_VALUE)
            check_metric_names(hierarchy, meta.as_dict())
        unscored = resolve_unscored(meta.get("unscored_classes"), own)
        # In the model's tree, a leaf of the dataset may be a node with leaves below it.
        above = tuple(f"{own.paths[leaf]}/" for leaf in unscored)
        leaves = self.hierarchy.paths[: self.hierarchy.num_leaves]
        self._unscored = [i for i, path in enumerate(leaves) if f"{path}/".startswith(above)]
        self._num_void_classes = len(meta.get("void_classes") or ())
        self.reset()

    @property
    def metric_names(self) -> list[str]:
        """Names of all metrics, including those that only some models and configs produce."""
        names = score_names(self.hierarchy)
        if not self._unscored and not self._num_void_classes:
            names.remove("mIoU_all")
        return names + [name for part in self._parts for name in part.metric_names]

    def check_files(self, *, images: bool = True, num_read: int = 8) -> None:
        """Check the files of an evaluation before training.

        Args:
            images: whether image files must exist as well as label files.
            num_read: read at least this many label files, spread evenly over the dataset, and fewer
                than twice as many.

        Raises:
            DatasetError: an image has no label file, a file does not exist, or one of the label
                files read is damaged or contains unknown ids.
        """
        records = DatasetCatalog.get(self.dataset_name)
        keys = ("sem_seg_file_name", "file_name") if images else ("sem_seg_file_name",)
        for key in keys:
            paths = [record.get(key) for record in records]
            kind = "label" if key == keys[0] else "image"
            missing = [i for i, path in enumerate(paths) if path is None or not _exists(path)]
            if missing:
                first = paths[missing[0]] or f"none for {records[missing[0]]['file_name']}"
                raise DatasetError(
                    f"test set {self.dataset_name!r}: {len(missing)} of {len(paths)} {kind} files "
                    f"do not exist, the first: {first}; add them, or leave the set out of "
                    "DATASETS.TEST"
                )
        for record in records[:: max(1, len(records) // num_read)]:
            self._read_truth(record["sem_seg_file_name"])

    def reset(self) -> None:
        """Reset all counts before a new evaluation."""
        self._counts = PathCounts(self.hierarchy, self._read_truth.ignore_label)
        self._parts = [SelectivePrediction(self.hierarchy), Calibration(self.hierarchy)]
        if self._boundary_iou:
            self._parts.append(BoundaryQuality(self.hierarchy, self._unscored))
        self._images: list[tuple[str, Cells]] = []
        self._predictions: list[dict] = []
        self._nan_images = 0

    def process(self, inputs: Iterable[Mapping], outputs: Iterable[Mapping]) -> None:
        """Count the pixels of some images.

        Args:
            inputs: dicts with ``file_name``, and ``sem_seg_file_name`` unless the dataset's dict of
                that file has it.
            outputs: for each image a dict with ``hiera_labels`` (one (H, W) map of node ids per
                level, coarse to fine, of which the last one counts; or only that map, with or
                without a list) or ``sem_seg`` ((L, H, W) leaf scores). Optional keys are
                ``hiera_labels_direct``, ``hiera_unpredicted`` (bool (H, W), pixels without a
                prediction, which count as wrong), ``hiera_confidence``, ``hiera_greedy_path`` and
                ``hiera_greedy_path_limits`` of :func:`hiera_seg.modeling.decode.decode`.

        Raises:
            DatasetError: the ground truth is missing, contains unknown ids, or differs in size from
                the image. The message names the file.
            ValueError: the prediction has neither ``hiera_labels`` nor ``sem_seg``, or has a wrong
                size or an unknown node id.
        """
        for image, output in zip(inputs, outputs, strict=True):
            file_name = image["file_name"]
            truth_file = image.get("sem_seg_file_name") or self._truth_files.get(file_name)
            if truth_file is None:
                raise DatasetError(
                    f"no ground truth for {file_name}: dataset {self.dataset_name!r} has no such "
                    "file_name with a sem_seg_file_name"
                )
            known = "height" in image and "width" in image
            size = (image["height"], image["width"]) if known else None
            truth = self._read_truth(truth_file, size)
            if size is not None:
                check_same_size(file_name, size, truth_file, truth.shape)
            try:
                labels, direct = self._read_output(output)
                unpredicted = output.get("hiera_unpredicted")
                cells = self._counts.add(labels, truth, direct, unpredicted)
                for part in self._parts:
                    part.add(output, labels, truth)
                self._nan_images += "hiera_nan_count" in output
            except ValueError as error:
                raise ValueError(
                    f"bad prediction of {file_name} (ground truth {truth_file}): {error}"
                ) from error
            if self._output_dir:
                self._images.append((os.fspath(file_name), cells))
            if self._save_predictions:
                if unpredicted is not None:
                    labels = np.where(unpredicted, -1, labels.astype(np.int64))
                self._predictions += [
                    {"file_name": os.fspath(file_name), "category_id": node, "segmentation": rle}
                    for node, rle in encode_labels(labels).items()
                    if node >= 0
                ]

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the scores of all images since :meth:`reset`.

        Returns:
            ``{task: {metric: value}}`` on the main process, an empty dict on the others.
        """
        if self._nan_images:
            logger.warning("%d images have NaN node values: check the model", self._nan_images)
        if self._distributed and comm.get_world_size() > 1:
            self._gather_counts()
            if not comm.is_main_process():
                return {}

        scores = hierarchy_scores(
            self._counts, unscored=self._unscored, num_void_classes=self._num_void_classes
        )
        if 0 < self._counts.num_direct_images < self._counts.num_images:
            logger.warning(
                "%d of %d images had direct labels: direct numbers and consistency are left out",
                self._counts.num_direct_images,
                self._counts.num_images,
            )
        more: dict[str, float] = {}
        files: dict[str, Any] = {}
        for part in self._parts:
            complete = part.is_complete(self._counts.num_images)
            found, content = part.results() if complete else ({}, None)
            more |= found
            if part.file_name:
                files[part.file_name] = content
        metrics = scores.as_dict() | more
        # A user's own training script sets up Detectron2's logger only.
        shown = logger if logger.hasHandlers() else logging.getLogger("detectron2.evaluation")
        shown.info(
            "%s on %s%s, %d images:\n%s%s",
            self.task,
            self.dataset_name,
            scores.hierarchy.name and f", tree {scores.hierarchy.name}",
            self._counts.num_images,
            report(scores),
            "\n\n" * bool(more)
            + ", ".join(f"{name} {value:.2f} %" for name, value in more.items() if "-" not in name),
        )
        if self._output_dir:
            files["hiera_predictions.json"] = self._predictions if self._save_predictions else None
            self._write(scores, metrics, files)
        return OrderedDict({self.task: metrics})

    def _gather_counts(self) -> None:
        """Move the counts of all processes to the main process."""
        vectors = [part.counts.vector for part in self._parts]
        mine = (self._counts, vectors, self._images, self._predictions)
        gathered = comm.gather(mine, dst=0)
        self.reset()
        for counts, vectors, images, predictions in gathered:
            self._counts.merge(counts)
            for part, vector in zip(self._parts, vectors, strict=True):
                part.counts.vector += vector
            self._images += images
            self._predictions += predictions

    @cached_property
    def _truth_files(self) -> dict[str, str]:
        files: dict[str, str] = {}
        for record in DatasetCatalog.get(self.dataset_name):
            image, truth = record["file_name"], record.get("sem_seg_file_name")
            if truth is not None and files.setdefault(image, truth) != truth:
                raise DatasetError(
                    f"dataset {self.dataset_name!r} has two label files for {image}: "
                    f"{files[image]} and {truth}; the inputs have to carry their "
                    "sem_seg_file_name, as those of HieraDatasetMapper do"
                )
        return files

    def _read_output(self, output: Mapping) -> tuple[np.ndarray, list[np.ndarray] | None]:
        """Return the predicted nodes (H, W), and the direct labels or None."""
        hierarchy = self.hierarchy
        maps = output.get("hiera_labels")
        if maps is not None:
            if getattr(maps, "ndim", None) == 2:
                maps = [maps]
            if len(maps) not in (1, hierarchy.num_levels):
                raise ValueError(
                    f"'hiera_labels' holds {len(maps)} maps, but tree {hierarchy.name!r} has "
                    f"{hierarchy.num_levels} levels; give one map per level, or one map of node ids"
                )
            labels = as_numpy(maps[-1])
        elif "sem_seg" in output:
            scores = torch.as_tensor(output["sem_seg"])
            if scores.dim() != 3 or len(scores) != hierarchy.num_leaves:
                raise ValueError(
                    f"'sem_seg' has shape {tuple(scores.shape)}; expected ({hierarchy.num_leaves}, "
                    f"H, W), the scores of the leaves of tree {hierarchy.name!r}"
                )
            labels = as_numpy(best_channel(scores)[1])
        else:
            raise ValueError(
                f"it has neither 'hiera_labels' nor 'sem_seg', only {sorted(map(str, output))}"
            )
        direct = output.get("hiera_labels_direct")
        return labels, None if direct is None else [as_numpy(values) for values in direct]

    def _write(
        self, scores: HierarchyScores, metrics: dict[str, float], files: Mapping[str, Any]
    ) -> None:
        """Write all files, and remove JSON files of an earlier evaluation that are None now."""
        h = self.hierarchy
        PathManager.mkdirs(self._output_dir)
        summary = {
            "dataset": self.dataset_name,
            "task": self.task,
            "tree": h.name,
            "levels": list(h.level_names),
            "hierarchy": h.to_dict(),
            "images": self._counts.num_images,
            "metrics": json_data(metrics),
        }
        self._write_json("hiera_metrics.json", summary, indent=1)
        for level, name in enumerate(h.level_names):
            merged = level_cells(self._counts.nodes, h, level)
            direct = scores.direct and level_cells(self._counts.direct[level], h, level)
            path = os.path.join(self._output_dir, f"confusion_{name}.npz")
            write_confusion(path, scores.class_names(level), merged, direct)
        counts = ImageCounts.of(self.dataset_name, h, self._images, self._unscored)
        counts.save(os.path.join(self._output_dir, FILE_NAME))
        for name, content in files.items():
            path = os.path.join(self._output_dir, name)
            if content is not None:
                self._write_json(name, content)
            elif PathManager.exists(path):
                PathManager.rm(path)

    def _write_json(self, name: str, content: Any, indent: int | None = None) -> None:
        path = os.path.join(self._output_dir, name)
        replace_text(path, json.dumps(content, allow_nan=False, indent=indent))


def evaluation_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Return OUTPUT_DIR, or one folder per dataset below it if there are several test sets."""
    if len(cfg.DATASETS.TEST) > 1:
        return os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    return cfg.OUTPUT_DIR


def build_hiera_evaluator(cfg: CfgNode, dataset_name: str) -> HieraSemSegEvaluator:
    """Build the evaluator that a trainer's ``build_evaluator`` returns.

    It evaluates in the tree of the model, which may differ from that of the dataset.

    Args:
        cfg: the whole config; files are written to the :func:`evaluation_folder`.
        dataset_name: see :class:`HieraSemSegEvaluator`.

    Raises:
        ConfigError: the config names no tree.
        DatasetError: the dataset has no tree, or has labels that the model's tree lacks.
    """
    folder = evaluation_folder(cfg, dataset_name)
    return HieraSemSegEvaluator(
        dataset_name,
        output_dir=folder,
        hierarchy=resolve_hierarchy(cfg),
        exif=cfg.INPUT.EXIF,
        boundary_iou=cfg.MODEL.HIERA_SEG.TEST.BOUNDARY_IOU,
    )


def _exists(path: str | os.PathLike) -> bool:
    """Return whether a file exists; remote files are assumed to exist."""
    if isinstance(path, RegionLabels):
        return True
    return "://" in os.fspath(path) or os.path.isfile(path)
