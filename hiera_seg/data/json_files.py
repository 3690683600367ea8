"""Read JSON files, and recognize those of annotation tools."""

import json
from typing import Any

from detectron2.utils.file_io import PathManager

from hiera_seg.errors import DatasetError


def read_json_file(path: str, *, hint: str = "", expected: str = "") -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        hint: end of the error for a missing file.
        expected: the expected content, for the error about brackets that are nested too deeply.

    Raises:
        DatasetError: the file is missing or not valid JSON.
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
        end = f"; {expected}" if expected else ""
        raise DatasetError(f"{path}: its brackets are nested too deeply{end}") from error


def is_coco(content: Any) -> bool:
    """Return whether the content of a JSON file is in COCO format."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def is_labelme(content: Any) -> bool:
    """Return whether the content of a JSON file is in labelme's format: shapes of one image."""
    shapes = content.get("shapes") if isinstance(content, dict) else None
    return isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)


def refuse_annotations(content: Any, path: str) -> None:
    """Raise DatasetError if the JSON file is in an annotation format that has its own reader."""
    if is_coco(content):
        raise DatasetError(
            f"{path} is a COCO file; register it with "
            f"hiera_seg.data.register_coco_hierarchical(name, {path!r}, image_root)"
        )
    if is_labelme(content):
        raise DatasetError(
            f"{path} is a labelme file; write label files with tools/convert_annotations.py"
        )
