"""Rename tensors by patterns."""

import re
from collections.abc import Iterable


def rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """Return the name that the first rule (pattern of a whole name, new name) gives, or `name`."""
    for pattern, new_name in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(new_name)
    return name
