"""Raise ``HierarchyError`` with file and line, and format parts of its messages."""

import difflib
from collections.abc import Iterable
from typing import NoReturn

from hiera_seg.errors import HierarchyError


def fail(message: str, origin: str = "", line: int | None = None) -> NoReturn:
    """Raise ``HierarchyError`` with file and line before the message, where they are known."""
    where = f"{origin}:{line}: " if origin and line else f"{origin}: " if origin else ""
    raise HierarchyError(where + message)


def first_seen(line: int | None) -> str:
    """Return " (first on line N)" for a repeated entry, "" if the line is unknown."""
    return f" (first on line {line})" if line else ""


def listing(names: Iterable[object], limit: int = 8) -> str:
    """Return up to `limit` quoted names for an error message, and the number of others."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` known names that are most similar to `name`, ignoring case."""
    folded: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(known):
        folded.setdefault(candidate.casefold(), []).append(candidate)
    close = difflib.get_close_matches(name.casefold(), folded, n=limit, cutoff=0.6)
    return [candidate for key in close for candidate in folded[key]][:limit]


def suggestion(name: str, known: Iterable[str], likely: Iterable[str] = ()) -> str:
    """Return "; nearest: ..." with `likely` first, or "; known: ..." if no name is similar.

    If no name is known, the result is empty.
    """
    known = list(dict.fromkeys(known))
    if close := list(dict.fromkeys((*likely, *nearest(name, known)))):
        return f"; nearest: {listing(close)}"
    return f"; known: {listing(known)}" if known else ""
