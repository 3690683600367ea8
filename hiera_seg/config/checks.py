"""Check config values against `RULES`, a table of one rule per key."""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)

# isort: split

import functools
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.layers import get_norm
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils import comm
from fvcore.common.registry import Registry

from hiera_seg.config.image_format import num_channels
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy.messages import suggestion

# Takes a value and its config; returns the advice for an invalid value, "" for a valid one.
Rule = Callable[[Any, CN], str]

LOGGERS = ("tensorboard", "wandb", "mlflow")  # of the key LOGGERS, and the packages they need
_LOWER_IS_BETTER = ("validation_loss", "tree_distance", "mistake_severity", "ECE_")
WEIGHTS_SCHEMES = ("detectron2", "catalog", "https")  # addresses that MODEL.WEIGHTS may name


def at_least(minimum: float) -> Rule:
    """Require a number that is `minimum` or more."""
    return lambda value, _: "" if value >= minimum else f"choose {minimum} or more"


def one_of(*allowed: str) -> Rule:
    """Require one of several strings."""
    listed = ", ".join(f'"{text}"' for text in allowed)
    return lambda value, _: "" if value in allowed else f"choose one of {listed}"


def registered(registry: Registry) -> Rule:
    """Require a name in one of Detectron2's registries."""

    def rule(value: str, _: CN) -> str:
        if value in registry:
            return ""
        nearest = suggestion(value, [name for name, _ in registry])
        return f"no such name is registered{nearest}; import the module that registers it"

    return rule


def mode_of(metric_key: str) -> Rule:
    """Require "max" or "min"; "min" for a metric of which lower values are better."""

    def rule(mode: str, cfg: CN) -> str:
        metric = str(value_of(cfg, metric_key))
        if mode == "max" and metric.rpartition("/")[2].startswith(_LOWER_IS_BETTER):
            return f'choose "min" for {metric}, of which lower values are better'
        return one_of("max", "min")(mode, cfg)

    return rule


def _splits_into_parts(images: int, cfg: CN) -> str:
    steps, processes = cfg.SOLVER.ACCUMULATION_STEPS, comm.get_world_size()
    if images > 0 and images % (steps * processes) == 0:
        return ""
    return (
        f"choose a multiple of {steps * processes}, which is SOLVER.ACCUMULATION_STEPS ({steps}) "
        f"times the number of processes ({processes})"
    )


def _without_precise_bn(enabled: bool, cfg: CN) -> str:
    if not (enabled and cfg.TEST.PRECISE_BN.ENABLED):
        return ""
    return (
        "disable it or TEST.PRECISE_BN.ENABLED, which computes the statistics of the trained "
        "weights and not of their average"
    )


def _is_in_pixels(size: list[float], cfg: CN) -> str:
    # The Base configs set TYPE "absolute", and SIZE may be missing in the config of a dataset.
    crop = cfg.INPUT.CROP
    if not crop.ENABLED or crop.TYPE != "absolute":
        return ""
    if len(size) == 2 and all(side >= 1 and side == int(side) for side in size):
        return ""
    return 'with INPUT.CROP.TYPE "absolute" choose [height, width] in pixels, such as [384, 384]'


def _fits_format(mean: list[float], cfg: CN) -> str:
    channels = num_channels(cfg.INPUT.FORMAT)
    if channels in (None, len(mean)):
        return ""
    return f"with INPUT.FORMAT {cfg.INPUT.FORMAT!r} choose {channels} numbers, one per channel"


def _are_channels(bands: list[int], cfg: CN) -> str:
    channels = len(cfg.MODEL.PIXEL_MEAN)
    if not bands or (len(bands) == 3 and all(band in range(channels) for band in bands)):
        return ""
    return f"choose [] or three channels in 0..{channels - 1}"


def _is_norm(name: str, _: CN) -> str:
    try:
        get_norm(name, 32)
    except (KeyError, TypeError):  # of a text, of a number
        return 'choose a norm of Detectron2, such as "BN" or "SyncBN", or "" for none'
    return ""


def _has_test_set(needed: object, cfg: CN) -> str:
    return "name a dataset in DATASETS.TEST" if needed and not cfg.DATASETS.TEST else ""


def _is_computed(metric: str, cfg: CN) -> str:
    if "validation_loss" in str(metric) and not cfg.TEST.VALIDATION_LOSS:
        return "set TEST.VALIDATION_LOSS True to compute it"
    return _has_test_set(metric, cfg)


def _is_computed_before_the_end(metric: str, cfg: CN) -> str:
    period, end = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
    if metric and not 0 < period < end:
        return (
            f"set TEST.EVAL_PERIOD, which is {period}, to 1 or more and less than "
            f"SOLVER.MAX_ITER, which is {end}"
        )
    return _is_computed(metric, cfg)


def _are_loggers(names: list[str], _: CN) -> str:
    if unknown := [name for name in names if name not in LOGGERS]:
        return f"choose from {', '.join(LOGGERS)}{suggestion(str(unknown[0]), LOGGERS)}"
    # Without tensorboard, which is in the default, a run only logs less
    missing = [name for name in names if name != "tensorboard" and not is_installed(name)]
    return f"run `pip install {' '.join(missing)}`" if missing else ""


_POSITIVE = (  # below MODEL.HIERA_SEG.MASK_FORMER
    "NUM_QUERIES", "HIDDEN_DIM", "NUM_HEADS", "DIM_FEEDFORWARD", "DECODER_LAYERS", "NUM_POINTS",
    "ENCODER_LAYERS", "ENCODER_DIM_FEEDFORWARD", "OVERSAMPLE_RATIO",
)  # fmt: skip
RULES: dict[str, Rule] = {
    # The model
    "MODEL.META_ARCHITECTURE": registered(META_ARCH_REGISTRY),
    "MODEL.PIXEL_MEAN": _fits_format,
    "MODEL.BACKBONE.NAME": registered(BACKBONE_REGISTRY),
    "MODEL.SEM_SEG_HEAD.NAME": registered(SEM_SEG_HEADS_REGISTRY),
    "MODEL.HIERA_SEG.TREE_TRIPLET.SCHEDULE_ITERS": at_least(0),
    "MODEL.HIERA_SEG.EMBEDDING.HIDDEN_CHANNELS": at_least(0),
    "MODEL.HIERA_SEG.EMBEDDING.DIM": at_least(1),
    "MODEL.HIERA_SEG.EMBEDDING.NORM": _is_norm,
    "MODEL.HIERA_SEG.AUXILIARY.WEIGHT": at_least(0),
    "MODEL.HIERA_SEG.AUXILIARY.CHANNELS": at_least(1),
    "MODEL.HIERA_SEG.AUXILIARY.NORM": _is_norm,
    "MODEL.HIERA_SEG.TIMM.NORM": one_of("BN", "SyncBN"),
    "MODEL.HIERA_SEG.TIMM.OUT_NORM": one_of("", "LN"),
    "MODEL.HIERA_SEG.OCR.REGIONS": one_of("node", "leaf"),
    "MODEL.HIERA_SEG.OCR.WEIGHT": at_least(0),
    "MODEL.HIERA_SEG.OCR.KEY_CHANNELS": at_least(1),
    **{f"MODEL.HIERA_SEG.MASK_FORMER.{key}": at_least(1) for key in _POSITIVE},
    **{
        f"MODEL.HIERA_SEG.MASK_FORMER.{key}_WEIGHT": at_least(0)
        for key in ("CLASS", "MASK", "DICE", "NO_OBJECT")
    },
    # The training
    "SOLVER.BACKBONE_MULTIPLIER": at_least(0),
    "SOLVER.ACCUMULATION_STEPS": at_least(1),
    "SOLVER.IMS_PER_BATCH": _splits_into_parts,
    "SOLVER.EMA.DECAY": lambda decay, _: "" if 0 <= decay < 1 else "choose a number in [0, 1)",
    "SOLVER.EMA.ENABLED": _without_precise_bn,
    "INPUT.CROP.SIZE": _is_in_pixels,
    "INPUT.DISPLAY_BANDS": _are_channels,
    "LOGGERS": _are_loggers,
    "NUM_THREADS": at_least(0),
    "DATALOADER.ON_ERROR": one_of("raise", "skip"),
    # The evaluations during training
    "TEST.VALIDATION_LOSS": _has_test_set,
    "TEST.BEST_CHECKPOINT.METRIC": _is_computed,
    "TEST.BEST_CHECKPOINT.MODE": mode_of("TEST.BEST_CHECKPOINT.METRIC"),
    "TEST.EARLY_STOPPING.PATIENCE": at_least(1),
    "TEST.EARLY_STOPPING.METRIC": _is_computed_before_the_end,
    "TEST.EARLY_STOPPING.MODE": mode_of("TEST.EARLY_STOPPING.METRIC"),
}


def check_config(cfg: CN, under: str = "") -> None:
    """Check a config against `RULES`.

    Args:
        cfg: a config with the keys of the package.
        under: check only keys that begin with this, such as ``"MODEL."``; "" checks all.

    Raises:
        ConfigError: the first value that breaks a rule, with its key.
    """
    for key, rule in RULES.items():
        if key.startswith(under) and (expected := rule(value_of(cfg, key), cfg)):
            value = value_of(cfg, key)
            raise ConfigError(f"{key} is {value!r}; {expected}", key=key, value=value)


def value_of(cfg: CN, key: str) -> Any:
    """Return the value of a key such as ``"SOLVER.MAX_ITER"``."""
    return functools.reduce(getattr, key.split("."), cfg)


def items_of(node: CN, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a config, such as ``"SOLVER.MAX_ITER"``, with its value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from items_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def remote_scheme(path: object) -> str:
    """Return the scheme of an address, such as "https"; "" for a file.

    ``package://`` names a file of an installed package, which is local.
    """
    match = re.match(r"\s*([a-z][a-z0-9+.-]*)://", str(path), re.IGNORECASE)
    scheme = match[1].lower() if match else ""
    return "" if scheme == "package" else scheme


def weights_source_problem(path: str) -> str:
    """Return why weights must not be loaded from a path or address; "" if they may be.

    Local files, Detectron2's catalogs and https are allowed. ".." in an address is refused because
    iopath derives the path of its cached copy from it, which would be outside of the cache.
    """
    scheme = remote_scheme(path)
    if scheme and scheme not in WEIGHTS_SCHEMES:
        allowed = ", ".join(f"{name}://" for name in WEIGHTS_SCHEMES)
        return f"{scheme}:// is refused; use a local file or one of {allowed}"
    if scheme and ".." in path.split("/"):
        return 'an address with ".." is refused; write it without'
    return ""


def check_addresses(cfg: CN) -> None:
    """Check that MODEL.WEIGHTS is the only key with an address, and that it is an allowed one.

    Raises:
        ConfigError: with key and value.
    """
    for key, value in _texts(items_of(cfg)):
        problem = ""
        if key == "MODEL.WEIGHTS":
            problem = weights_source_problem(value)
        elif remote_scheme(value):
            problem = "only MODEL.WEIGHTS may be an address; download it and name the local copy"
        if problem:
            raise ConfigError(f"{key} is {value!r}: {problem}", key=key, value=value)


def _texts(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for every text in a config, also inside lists."""
    for key, value in items:
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, Mapping):
            yield from _texts(items_of(value, f"{key}."))
        elif isinstance(value, list | tuple):
            yield from _texts((key, inner) for inner in value)
