"""Check what an error names, whatever its words are."""

from collections.abc import Iterable


def names_in_order(message: str, named: Iterable[str]) -> bool:
    """Return whether a message of one line contains all texts in this order."""
    position = 0
    for text in named:
        position = message.find(text, position)
        if position < 0:
            return False
        position += len(text)
    return "\n" not in message
