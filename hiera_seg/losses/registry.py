"""Register loss modules by the names that configs use, and read what they declare."""

import warnings
from collections.abc import Iterable
from typing import Any

from fvcore.common.registry import Registry

from hiera_seg.layers.scores import DECODE_VARIANTS


class LossRegistry(Registry):
    """A registry whose entries may be named differently from their class."""

    def register(self, obj: Any = None, *, name: str | None = None) -> Any:
        """Register a class, as a call or as a decorator.

        Args:
            obj: the class; None when used as a decorator.
            name: the name in configs; default: the name of the class.

        Raises:
            ValueError: the class declares an unknown `decoding`.
        """

        def add(entry: Any) -> Any:
            key = name or entry.__name__
            variant = getattr(entry, "decoding", None)
            if variant not in (None, *DECODE_VARIANTS):
                raise ValueError(
                    f"loss {key!r}: decoding is {variant!r}; it must be None or one of "
                    f"{DECODE_VARIANTS}"
                )
            if "counts" in vars(entry):
                warnings.warn(
                    f"loss {key!r}: the attribute `counts` is now `normalizer`", FutureWarning, 2
                )
                entry.normalizer = entry.counts
            self._do_register(key, entry)
            return entry

        return add if obj is None else add(obj)

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        return sorted(name for name, _ in self)


HIERA_LOSSES = LossRegistry("HIERA_LOSSES")
HIERA_LOSSES.__doc__ = """Loss modules by name; `LossTerm` documents what an entry declares."""


def declared_decoding(names: Iterable[str]) -> str | None:
    """Return the decode variant that losses declare by their attribute `decoding`.

    If losses declare several, the first in the order of `DECODE_VARIANTS` is returned: sigmoids,
    then a softmax per level (which trains all nodes), then a softmax over the leaves.

    Args:
        names: names of losses; those that are not registered declare nothing.

    Returns:
        One of `DECODE_VARIANTS`, or None if no loss declares one.
    """
    entries = [HIERA_LOSSES.get(name) for name in names if name in HIERA_LOSSES]
    declared = {getattr(entry, "decoding", None) for entry in entries}
    return next((variant for variant in DECODE_VARIANTS if variant in declared), None)
