"""Check the values of a config: one rule per key."""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)

# isort: split

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import CfgNode as CN
from detectron2.solver.build import GradientClipType
from detectron2.utils import comm

from hiera_seg.errors import ConfigError

WEIGHTS_SCHEMES = ("detectron2", "catalog", "https")  # addresses that MODEL.WEIGHTS may name


# Numbers of a model that can not be smaller.
_MODEL_AT_LEAST = {
    "MODEL.SEM_SEG_HEAD": {"CONVS_DIM": 1},
    "MODEL.HIERA_SEG.TREE_TRIPLET": {"SCHEDULE_ITERS": 0},
    "MODEL.HIERA_SEG.EMBEDDING": {"HIDDEN_CHANNELS": 0, "DIM": 1},
    "MODEL.HIERA_SEG.AUXILIARY": {"WEIGHT": 0, "CHANNELS": 1},
    "MODEL.HIERA_SEG.OCR": {"WEIGHT": 0, "KEY_CHANNELS": 1},
    "MODEL.HIERA_SEG.MASK_FORMER": {
        "NUM_QUERIES": 1,
        "HIDDEN_DIM": 1,
        "NUM_HEADS": 1,
        "DIM_FEEDFORWARD": 1,
        "DECODER_LAYERS": 1,
        "ENCODER_LAYERS": 1,
        "ENCODER_DIM_FEEDFORWARD": 1,
        "CLASS_WEIGHT": 0,
        "MASK_WEIGHT": 0,
        "DICE_WEIGHT": 0,
        "NO_OBJECT_WEIGHT": 0,
        "NUM_POINTS": 1,
        "OVERSAMPLE_RATIO": 1,
    },
}


def remote_scheme(path: object) -> str:
    """Return the scheme of an address, such as "https"; "" for a file.

    ``package://`` names a file of an installed package, which is local.
    """
    match = re.match(r"\s*([a-z][a-z0-9+.-]*)://", str(path), re.IGNORECASE)
    scheme = match[1].lower() if match else ""
    return "" if scheme == "package" else scheme


def weights_source_problem(path: str) -> str:
    """Return why weights must not be loaded from a path or address; "" if they may be.

    Files are allowed, Detectron2's own catalogs, and https. ".." in an address is refused because
    iopath derives the path of its cached copy from it, which would lie outside of the cache.
    """
    scheme = remote_scheme(path)
    if scheme and scheme not in WEIGHTS_SCHEMES:
        allowed = ", ".join(f"{name}://" for name in WEIGHTS_SCHEMES)
        return f"{scheme}:// is refused; use a local file or one of {allowed}"
    if scheme and ".." in path.split("/"):
        return 'an address with ".." is refused; write it without'
    return ""


def check_addresses(cfg: CN) -> None:
    """Check that MODEL.WEIGHTS is the only key that names an address, and an allowed one.

    Raises:
        ConfigError: another key holds an address; the message names key and value.
    """
    for key, value in _texts(cfg, ""):
        if key == "MODEL.WEIGHTS":
            if problem := weights_source_problem(value):
                raise ConfigError(f"{key} is {value!r}: {problem}")
        elif remote_scheme(value):
            raise ConfigError(
                f"{key} is {value!r}: only MODEL.WEIGHTS may name an address; download the file "
                "and name the local copy"
            )


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for every text in a config, also inside of lists."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, name)


def check_model_numbers(cfg: CN) -> None:
    """Raise ConfigError for the first number of a model that is too small."""
    require_at_least(cfg, _MODEL_AT_LEAST)


def require_at_least(cfg: CN, least: Mapping[str, Mapping[str, float]]) -> None:
    """Raise ConfigError for the first number of a config below what it has to be.

    Args:
        cfg: a config.
        least: for nodes of it, in full: the smallest value that each key may have.
    """
    for name, keys in least.items():
        node = functools.reduce(getattr, name.split("."), cfg)
        for key, minimum in keys.items():
            if not node[key] >= minimum:
                raise ConfigError(f"{name}.{key} is {node[key]}: {minimum} or more")


ON_ERROR = ("raise", "skip")  # values of DATALOADER.ON_ERROR


_CROP_TYPES = ("absolute", "absolute_range", "relative", "relative_range")


_FLIPS = ("none", "horizontal", "vertical")


_SAMPLINGS = ("choice", "range")


def check_input_keys(cfg: CfgNode) -> None:
    """Raise ConfigError for the first key of the augmentations in training that can not work."""
    keys = cfg.INPUT
    if keys.MIN_SIZE_TRAIN_SAMPLING not in _SAMPLINGS:
        raise _none_of("MIN_SIZE_TRAIN_SAMPLING", keys.MIN_SIZE_TRAIN_SAMPLING, _SAMPLINGS)
    sizes = keys.MIN_SIZE_TRAIN
    sizes = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes)
    in_order = len(sizes) == 2 and sizes[0] <= sizes[1]
    if keys.MIN_SIZE_TRAIN_SAMPLING == "range" and not in_order:
        raise ConfigError(
            f'INPUT.MIN_SIZE_TRAIN is {sizes}: with MIN_SIZE_TRAIN_SAMPLING "range" it is two '
            "numbers, the smaller one first, such as (480, 960)"
        )
    if not sizes or min(sizes) < 0:
        raise ConfigError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}: one size or more, such as (480, 640); 0 leaves "
            "images as they are"
        )
    if keys.RANDOM_FLIP not in _FLIPS:
        raise _none_of("RANDOM_FLIP", keys.RANDOM_FLIP, _FLIPS)
    if keys.CROP.ENABLED:
        check_crop(keys.CROP.TYPE, list(keys.CROP.SIZE))


def check_crop(kind: str, size: list[float]) -> None:
    """Raise ConfigError where INPUT.CROP.TYPE or SIZE is none, or one does not fit the other."""
    if kind not in _CROP_TYPES:
        raise _none_of("CROP.TYPE", kind, _CROP_TYPES)
    absolute = kind.startswith("absolute")
    fits = all(x >= 1 and x == int(x) if absolute else 0 < x <= 1 for x in size)
    if len(size) != 2 or not fits:
        wanted = "whole numbers of pixels, such as [384, 384]"
        if not absolute:
            wanted = "shares above 0 and at most 1, such as [0.5, 0.5]"
        raise ConfigError(f'INPUT.CROP.SIZE is {size}: with CROP.TYPE "{kind}" it is two {wanted}')
    if kind == "absolute_range" and size[0] > size[1]:
        raise ConfigError(
            f'INPUT.CROP.SIZE is {size}: with CROP.TYPE "{kind}" it is the smallest and the '
            "largest side, such as [256, 512]"
        )


def _none_of(key: str, value: object, allowed: tuple[str, ...]) -> ConfigError:
    listed = ", ".join(f'"{one}"' for one in allowed)
    return ConfigError(f"INPUT.{key} is {value!r}: choose one of {listed}")


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


def _one_of(values: tuple[str, ...]) -> str:
    return "choose " + ", ".join(f'"{value}"' for value in values)
