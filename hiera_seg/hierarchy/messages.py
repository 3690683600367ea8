"""The error of this package and the helpers that word it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn

from hiera_seg.errors import HierarchyError


def fail(message: str, origin: str = "", line: int | None = None) -> NoReturn:
    """Raises ``HierarchyError``, with file and line before the message where they are known."""
    where = f"{origin}:{line}: " if origin and line else f"{origin}: " if origin else ""
    raise HierarchyError(where + message)


def listing(names: Iterable[object], limit: int = 8) -> str:
    """Quotes names for an error message, no more than ``limit`` of them."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Returns the known names most like ``name``, best first; case is no difference."""
    folded: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(known):
        folded.setdefault(candidate.casefold(), []).append(candidate)
    close = difflib.get_close_matches(name.casefold(), folded, n=limit, cutoff=0.6)
    return [candidate for key in close for candidate in folded[key]][:limit]


def suggestion(name: str, known: Iterable[str], likely: Iterable[str] = ()) -> str:
    """Returns "; nearest: ..." with ``likely`` first or, where nothing is near, "; known: ..."."""
    known = list(dict.fromkeys(known))
    close = list(dict.fromkeys((*likely, *nearest(name, known))))
    return f"; nearest: {listing(close)}" if close else f"; known: {listing(known)}"
