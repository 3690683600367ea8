"""Write the report of an evaluation as one html file that needs no network."""

import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hiera_seg.disk import json_data, replace_text
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.report.data import curve_data, level_data, tree_data
from hiera_seg.report.images import ReportImage, image_data

MAX_IMAGE_BYTES = 9_000_000  # larger files open slowly; plotly.js has 5 MB
_SCRIPTS = ("base.js", "tables.js", "tree.js", "confusion.js", "curves.js", "images.js")


def write_report(
    path: str | os.PathLike,
    hierarchy: Hierarchy,
    summary: Mapping[str, Any],
    matrices: Sequence[np.ndarray],
    *,
    images: Sequence[ReportImage] = (),
    metrics_lines: Sequence[str] = (),
    max_iter: int | None = None,
    safe_depth: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the html file of a report.

    Args:
        path: path of the html file; its folder is created.
        hierarchy: the tree of the evaluation.
        summary: content of ``hiera_metrics.json``: "dataset", "images", "metrics".
        matrices: int64 (K + 1, K) per level, the ``matrix`` of ``confusion_<level>.npz``.
        images: images to show.
        metrics_lines: lines of Detectron2's ``metrics.json``, for the curves.
        max_iter: iterations of the run.
        safe_depth: content of ``safe_depth.json``.
        calibration: content of ``calibration.json``.
        notes: sentences to show at the top, such as why there are no images.

    Returns:
        The path.

    Raises:
        ConfigError: plotly is not installed, or the file cannot be written.
    """
    data = {
        "dataset": str(summary.get("dataset", "")),
        "numImages": summary.get("images"),
        "created": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "tree": tree_data(hierarchy),
        "metrics": summary["metrics"],
        "levels": [level_data(m, hierarchy, level) for level, m in enumerate(matrices)],
        "curves": curve_data(metrics_lines, hierarchy.level_names, max_iter),
        "safeDepth": safe_depth,
        "calibration": calibration,
        "images": _images_that_fit(images, hierarchy),
        "notes": list(notes),
    }
    page, path = _page(json_data(data)), Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, page)
    except OSError as error:
        raise ConfigError(f"report {path} cannot be written: {error.strerror}") from error
    return path


def require_plotly() -> str:
    """Return the source of plotly.js from the Python package plotly.

    Raises:
        ConfigError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(
            "plotly is not installed, which reports need; run pip install plotly, or install the "
            'extra "report" of hiera_seg'
        ) from error
    return get_plotlyjs()


def _images_that_fit(images: Sequence[ReportImage], hierarchy: Hierarchy) -> list[dict]:
    """Encode the images at the largest size at which all together fit."""
    for side in (640, 480, 360, 240, 160):
        encoded = [image_data(image, hierarchy, side) for image in images]
        if len(json.dumps(encoded)) <= MAX_IMAGE_BYTES:
            break
    return encoded


def _page(data: dict[str, Any]) -> str:
    # Without "<" nothing in the data can close the script element
    payload = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    parts = {
        "title": html.escape(f"{data['dataset']} · {data['tree']['name']}"),
        "style": _asset("report.css"),
        "data": payload.replace("<", "\\u003c"),
        "plotly": require_plotly(),
        "scripts": "\n".join(f"<script>\n{_asset(name)}</script>" for name in _SCRIPTS),
    }
    # In a single pass, because inserted text must not be expanded again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("report.html"))


def _asset(name: str) -> str:
    folder = resources.files("hiera_seg.report") / "assets"
    return (folder / name).read_text(encoding="utf-8")
