"""Build the evaluator of a dataset from a config."""

import os

from detectron2.config import CfgNode

from hiera_seg.config import resolve_hierarchy
from hiera_seg.evaluation.evaluator import HieraSemSegEvaluator


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
