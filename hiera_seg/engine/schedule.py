"""Build the learning-rate schedule: one of Detectron2, or "poly" with warm-up."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_core_lr_scheduler
from fvcore.common.param_scheduler import ParamScheduler

from hiera_seg.errors import ConfigError

logger = logging.getLogger(__name__)


class PolyParamScheduler(ParamScheduler):
    """The "poly" decay of DeepLab: ``max((1 - where) ** power, constant_ending)``.

    Args:
        power: exponent of the decay.
        constant_ending: lower bound of the factor.
    """

    def __init__(self, power: float, constant_ending: float = 0.0):
        self.power = power
        self.constant_ending = constant_ending

    def __call__(self, where: float) -> float:
        return max(max(1.0 - where, 0.0) ** self.power, self.constant_ending)


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build the schedule that SOLVER.LR_SCHEDULER_NAME names.

    "WarmupPolyLR" uses SOLVER.POLY_LR_POWER, POLY_LR_CONSTANT_ENDING and the WARMUP keys. Unlike
    the class of that name in Detectron2's DeepLab project, it has no MAX_ITER in its state, so a
    run can be resumed with a longer or shorter schedule. Detectron2 builds all other schedules.

    Raises:
        ConfigError: the name is unknown.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        try:
            return build_core_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise ConfigError(f"SOLVER.LR_SCHEDULER_NAME: {error}") from error
    # A key of Detectron2's main: whether the decay begins after the warm-up
    rescale = {"rescale_interval": True} if cfg.SOLVER.get("RESCALE_INTERVAL") else {}
    schedule = WarmupParamScheduler(
        PolyParamScheduler(cfg.SOLVER.POLY_LR_POWER, cfg.SOLVER.POLY_LR_CONSTANT_ENDING),
        cfg.SOLVER.WARMUP_FACTOR,
        min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
        cfg.SOLVER.WARMUP_METHOD,
        **rescale,
    )
    highest = max(schedule(percent / 100) for percent in range(100))
    if highest < 0.5:
        logger.warning(
            f"SOLVER.WARMUP_ITERS is {cfg.SOLVER.WARMUP_ITERS} of SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}: the learning rate reaches {highest:.2g} of SOLVER.BASE_LR, "
            "because it grows to what the decay leaves; reduce WARMUP_ITERS"
        )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=cfg.SOLVER.MAX_ITER)
