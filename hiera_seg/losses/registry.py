"""The registry of loss modules, by the names that configs use."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry


class LossRegistry(Registry):
    """A registry whose entries may have another name than their class."""

    def register(self, obj: Any = None, *, name: str | None = None) -> Any:
        """Register a class, as a call or as a decorator.

        Args:
            obj: the class; None where this is used as a decorator.
            name: what configs call it; default: the name of the class.
        """

        def add(entry: Any) -> Any:
            self._do_register(name or entry.__name__, entry)
            return entry

        return add if obj is None else add(obj)

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(name for name, _ in self)


HIERA_LOSSES = LossRegistry("HIERA_LOSSES")
HIERA_LOSSES.__doc__ = """Loss modules by name.

An entry is built as ``Entry(hierarchy, *, ignore_label, **options)`` and called as
``entry(values, labels, *, valid_count=None)``. Its attributes:

- ``needs``: "logits" or "embeddings", what `values` are;
- ``counts``: "pixels" (default), "levels" or None, the part of `valid_pixels` it averages over;
- ``samples`` (default False): it also takes ``generator=``;
- ``weight_at(iteration)`` (optional): a schedule, multiplied with the configured weight.
"""
