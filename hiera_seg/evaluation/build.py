"""The evaluator of a dataset, as a config says."""

import os

from detectron2.config import CfgNode

from hiera_seg.config import resolve_hierarchy
from hiera_seg.evaluation.evaluator import HieraSemSegEvaluator


def evaluation_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Where the evaluation of a dataset writes: several sets must not overwrite each other."""
    if len(cfg.DATASETS.TEST) > 1:
        return os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    return cfg.OUTPUT_DIR


def build_hiera_evaluator(cfg: CfgNode, dataset_name: str) -> HieraSemSegEvaluator:
    """Make what a trainer's ``build_evaluator`` returns.

    It scores in the tree of the model, which need not be that of the dataset.

    Args:
        cfg: OUTPUT_DIR is written to, a folder a dataset where DATASETS.TEST names several.
        dataset_name: see :class:`HieraSemSegEvaluator`.

    Raises:
        ConfigError: no tree can be found for the model.
        DatasetError: the dataset has no tree, or one with labels that the model's tree lacks.
    """
    folder = evaluation_folder(cfg, dataset_name)
    return HieraSemSegEvaluator(
        dataset_name, output_dir=folder, hierarchy=resolve_hierarchy(cfg), exif=cfg.INPUT.EXIF
    )
