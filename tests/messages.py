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


def check_one_error(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """Check the exit code of a tool, and that its only line of error contains all parts."""
    found, _, error = result
    assert found == code, error
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert all(part in error for part in parts), error
