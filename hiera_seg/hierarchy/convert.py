"""Whatever a user may give for a tree, as a ``Hierarchy``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hiera_seg.hierarchy.files import FILE_KEYS
from hiera_seg.hierarchy.tree import Hierarchy


def as_hierarchy(
    source: Hierarchy | Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str],
) -> Hierarchy:
    """Returns a Hierarchy from any form a user may give one in.

    Args:
        source: A Hierarchy; plain data as ``to_dict`` gives it (any of its keys with ``tree``); a
            bare tree (dict or list) as ``from_dict`` takes it; a built-in name; or a file.
    """
    if isinstance(source, Hierarchy):
        return source
    if isinstance(source, Mapping):
        if "tree" in source and set(source) <= set(FILE_KEYS):
            return Hierarchy.from_dict(**source)
        return Hierarchy.from_dict(source)
    if isinstance(source, list | tuple):
        return Hierarchy.from_dict(source)
    return Hierarchy.load(source)
