"""Read JSON files, and recognize those of annotation tools."""

import json
import re
import sys
from collections.abc import Generator
from typing import Any

from detectron2.utils.file_io import PathManager

from hiera_seg.errors import DatasetError

_CHUNK = 1 << 20  # characters that are read at a time
_SPACE = " \t\n\r"
_separator = re.compile(rf"[{_SPACE}]*([,\]])[{_SPACE}]*").match


def read_json_file(path: str, *, hint: str = "") -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: the file is missing (the message ends with `hint`) or not valid JSON.
    """
    try:
        with PathManager.open(path, "r", encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise DatasetError(f"json file not found: {path}{hint}") from error
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}, line {error.lineno}: not valid json: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: its brackets are nested too deeply") from error


def iterate_json_list(path: str) -> Generator[Any, None, int | None]:
    """Yield the entries of a JSON file that holds a list one by one, without all of them in memory.

    Returns:
        None if these are all, else their number: :func:`read_json_file` then returns what the file
        holds, such as a list without entries, or raises what is wrong with it.
    """
    # One key object for all entries, as `json.load` makes it
    share_keys = {"object_pairs_hook": lambda pairs: {sys.intern(k): v for k, v in pairs}}
    decode, count = json.JSONDecoder(**share_keys).raw_decode, 0
    try:
        with PathManager.open(path, "r", encoding="utf-8-sig") as file:
            text = file.read(_CHUNK).lstrip(_SPACE)
            if not text.startswith("["):
                return count
            text, at = text[1:].lstrip(_SPACE), 0
            while True:
                try:
                    entry, end = decode(text, at)
                    # The start of a number is a number too: only what follows shows its end.
                    separator = _separator(text, end)
                except json.JSONDecodeError:
                    separator = None
                if separator:
                    yield entry
                    count, at = count + 1, separator.end()
                    if separator[1] == "]":
                        return count if (text[at:] + file.read()).strip(_SPACE) else None
                elif more := file.read(max(_CHUNK, len(text) - at)):
                    text, at = (text[at:] + more).lstrip(_SPACE), 0
                else:
                    return count
    except (OSError, ValueError, RecursionError):
        return count


def is_labelme(content: Any) -> bool:
    """Return whether the content of a JSON file is in labelme's format: shapes of one image."""
    shapes = content.get("shapes") if isinstance(content, dict) else None
    return isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)
