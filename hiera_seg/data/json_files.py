"""Read JSON files, and recognize those of annotation tools."""

import json
from typing import Any

from detectron2.utils.file_io import PathManager

from hiera_seg.errors import DatasetError


def read_json_file(path: str, *, hint: str = "") -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: the file is missing (the message ends with `hint`) or not valid JSON.
    """
    try:
        with PathManager.open(path, "r") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise DatasetError(f"json file not found: {path}{hint}") from error
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}, line {error.lineno}: not valid json: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: its brackets are nested too deeply") from error


def is_labelme(content: Any) -> bool:
    """Return whether the content of a JSON file is in labelme's format: shapes of one image."""
    shapes = content.get("shapes") if isinstance(content, dict) else None
    return isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)
