"""Convert every form of a class tree to a ``Hierarchy``."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hiera_seg.hierarchy.files import FILE_KEYS
from hiera_seg.hierarchy.tree import Hierarchy


def as_hierarchy(
    source: Hierarchy | Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str],
) -> Hierarchy:
    """Return a Hierarchy from any accepted form of a class tree.

    Args:
        source: a Hierarchy; plain data as ``to_dict`` returns it (``tree`` and any of its other
            keys); a bare tree (dict or list) as ``from_dict`` takes it; a built-in name; or a file.

    Raises:
        HierarchyError: the source is not a valid tree.
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
