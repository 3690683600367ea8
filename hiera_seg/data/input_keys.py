"""What the keys of INPUT have to be, checked before the first image is read."""

from detectron2.config import CfgNode

from hiera_seg.config import ConfigError

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
