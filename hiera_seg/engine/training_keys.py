"""What the keys of a training have to be, checked before it begins."""

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver.build import GradientClipType
from detectron2.utils import comm

from hiera_seg.config import ConfigError, require_at_least
from hiera_seg.data.loader import ON_ERROR
from hiera_seg.engine.hooks import unknown_metric

FULL_MODEL = "full_model"  # a CLIP_TYPE beside Detectron2's own


# Numbers that have to be so large.
_AT_LEAST = {
    "SOLVER": {
        "MAX_ITER": 1,
        "CHECKPOINT_PERIOD": 1,
        "BASE_LR": 0,
        "MOMENTUM": 0,
        "WEIGHT_DECAY": 0,
        "WARMUP_ITERS": 0,
    },
    "DATALOADER": {"NUM_WORKERS": 0},
}
_WARMUPS = ("constant", "linear")


def check_training_keys(cfg: CfgNode) -> None:
    """Raise ConfigError for the first key of a training whose value can not work."""
    require_at_least(cfg, _AT_LEAST)
    _check_batch(cfg)
    _check_solver(cfg)
    if cfg.DATALOADER.ON_ERROR not in ON_ERROR:
        raise ConfigError(
            f"DATALOADER.ON_ERROR is {cfg.DATALOADER.ON_ERROR!r}: {_one_of(ON_ERROR)}"
        )
    if cfg.TEST.VALIDATION_LOSS and not cfg.DATASETS.TEST:
        raise ConfigError("TEST.VALIDATION_LOSS is True, but DATASETS.TEST is empty: name a set")
    _check_watched(cfg, "TEST.BEST_CHECKPOINT", cfg.TEST.BEST_CHECKPOINT)
    stopping = cfg.TEST.EARLY_STOPPING
    _check_watched(cfg, "TEST.EARLY_STOPPING", stopping)
    if stopping.PATIENCE < 1:
        raise ConfigError(f"TEST.EARLY_STOPPING.PATIENCE is {stopping.PATIENCE}: 1 or more")
    if stopping.METRIC and not 0 < cfg.TEST.EVAL_PERIOD < cfg.SOLVER.MAX_ITER:
        raise ConfigError(
            "TEST.EARLY_STOPPING.METRIC is set, but there is no evaluation before the end: "
            f"TEST.EVAL_PERIOD is {cfg.TEST.EVAL_PERIOD}; choose 1 or more, and less than "
            f"SOLVER.MAX_ITER, {cfg.SOLVER.MAX_ITER}"
        )


def check_reference_world_size(cfg: CfgNode) -> None:
    """Raise ConfigError where Detectron2 can not scale a config to the number of processes."""
    images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference < 0 or (reference and images % reference):
        raise ConfigError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}: the number of processes that "
            f"SOLVER.IMS_PER_BATCH, {images}, was chosen for, which divides it; 0 scales nothing"
        )


def _check_batch(cfg: CfgNode) -> None:
    steps, images = cfg.SOLVER.ACCUMULATION_STEPS, cfg.SOLVER.IMS_PER_BATCH
    if steps < 1:
        raise ConfigError(f"SOLVER.ACCUMULATION_STEPS is {steps}: 1 or more")
    processes = comm.get_world_size()
    if images < 1 or images % (steps * processes):
        shared = f" in each of {processes} processes" if processes > 1 else ""
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {images}, which SOLVER.ACCUMULATION_STEPS {steps}{shared} "
            f"can not divide: choose a multiple of {steps * processes}"
        )


def _check_solver(cfg: CfgNode) -> None:
    if cfg.SOLVER.WARMUP_METHOD not in _WARMUPS:
        raise ConfigError(
            f"SOLVER.WARMUP_METHOD is {cfg.SOLVER.WARMUP_METHOD!r}: {_one_of(_WARMUPS)}"
        )
    average = cfg.SOLVER.EMA
    if not 0 <= average.DECAY < 1:
        raise ConfigError(
            f"SOLVER.EMA.DECAY is {average.DECAY}: 0 or more and less than 1, such as 0.999"
        )
    if average.ENABLED and cfg.TEST.PRECISE_BN.ENABLED:
        raise ConfigError(
            "SOLVER.EMA.ENABLED and TEST.PRECISE_BN.ENABLED are both set: precise statistics are "
            "those of the weights, and not of their average; choose one"
        )
    clip = cfg.SOLVER.CLIP_GRADIENTS
    types = (*(kind.value for kind in GradientClipType), FULL_MODEL)
    if clip.ENABLED and clip.CLIP_TYPE not in types:
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}: {_one_of(types)}"
        )
    if clip.ENABLED and not clip.CLIP_VALUE > 0:
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}: more than 0")


def _check_watched(cfg: CfgNode, key: str, keys: CfgNode) -> None:
    if keys.MODE not in ("max", "min"):
        raise ConfigError(f'{key}.MODE is {keys.MODE!r}: choose "max" or "min"')
    if not keys.METRIC:
        return
    if not cfg.DATASETS.TEST:
        raise ConfigError(f"{key}.METRIC is set, but DATASETS.TEST is empty: name a set")
    if "validation_loss" in keys.METRIC and not cfg.TEST.VALIDATION_LOSS:
        raise ConfigError(
            f"{key}.METRIC is {keys.METRIC!r}: set TEST.VALIDATION_LOSS True to compute it"
        )


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


def _one_of(values: tuple[str, ...]) -> str:
    return "choose " + ", ".join(f'"{value}"' for value in values)
