"""Log what a person wants to know of a training before it starts, in a few lines."""

import logging

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from hiera_seg.config import resolve_hierarchy
from hiera_seg.engine.step import plain_model

logger = logging.getLogger(__name__)


def log_summary(cfg: CfgNode, model: nn.Module) -> None:
    """Log datasets, class tree, model and schedule.

    Args:
        cfg: of the training; its datasets are listed, to count their images.
        model: wrapped for several processes or not.

    Raises:
        DatasetError: the files of a dataset cannot be listed.
    """
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            logger.info(f"{key.lower()} set: {name}, {len(DatasetCatalog.get(name))} images")
    tree = resolve_hierarchy(cfg)
    logger.info(
        f"class tree: {tree.name or '(unnamed)'}, {tree.num_leaves} leaves and "
        f"{tree.num_nodes - tree.num_leaves} groups at {tree.num_levels} levels "
        f"({', '.join(tree.level_names)})"
    )
    parameters = list(plain_model(model).parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
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
