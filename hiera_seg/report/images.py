"""Encode the images of an html report, with the labels and scores of every pixel."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hiera_seg.hierarchy import Hierarchy

MAX_SIDE = 640  # pixels of the longer side of an image in the report
MAX_SCORES = 300_000  # bytes of an image's scores, which are subsampled to fit
NO_SCORE = 255
_STEPS = 250  # quantization steps of a score


@dataclass(frozen=True)
class ReportImage:
    """One image of a report.

    Attributes:
        name: shown above the image.
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integers, the predicted node of each pixel: a leaf, or an inner node if the
            prediction stops early.
        truth: (H, W) integers, the true node; other values are void. None if unknown.
        scores: float (num_levels, H, W), the score of the predicted node at each level, NaN if
            there is none. None if unknown.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None = None
    scores: np.ndarray | None = None


def image_data(sample: ReportImage, hierarchy: Hierarchy, max_side: int = MAX_SIDE) -> dict:
    """Encode an image as JPEG, its label maps as runs, its scores in 250 steps.

    Args:
        sample: in its original size.
        hierarchy: the tree of its labels.
        max_side: maximum length of the longer side, in pixels. Larger images are averaged, their
            labels and scores subsampled.

    Returns:
        ``name``, ``width``, ``height``, ``jpeg``, ``labels``, ``truth`` and ``scores``; the last
        two are None if unknown. Bytes are in base64.
    """
    height, width = sample.labels.shape
    factor = min(1.0, max_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = Image.fromarray(np.ascontiguousarray(sample.image))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    # The center of the pixels that one pixel of the report covers
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    labels, truth, scores = (
        None if values is None else values[..., rows[:, None], columns]
        for values in (sample.labels, sample.truth, sample.scores)
    )
    return {
        "name": sample.name,
        "width": size[0],
        "height": size[1],
        "jpeg": _base64(jpeg.getvalue()),
        "labels": encode_runs(labels, hierarchy.num_nodes),
        "truth": None if truth is None else encode_runs(truth, hierarchy.num_nodes),
        "scores": None if scores is None else _scores_data(scores),
    }


def encode_runs(labels: np.ndarray, num_nodes: int) -> str:
    """Encode a label map (H, W), row by row, as runs of (value, length) in LEB128 and base64.

    Node v is encoded as v + 1, any value outside [0, N) as 0.
    """
    flat = labels.astype(np.int64).ravel()
    flat = np.where((flat >= 0) & (flat < num_nodes), flat + 1, 0)
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    lengths = np.diff(np.append(starts, flat.size))
    return _base64(_leb128(np.stack([flat[starts], lengths], axis=1).ravel()))


def _leb128(numbers: np.ndarray) -> bytes:
    """Encode numbers with 7 bits per byte, lowest first; the highest bit is set if more follow."""
    parts = numbers[:, None] >> np.arange(0, 35, 7)
    more = np.concatenate([parts[:, 1:] > 0, np.zeros((len(parts), 1), bool)], axis=1)
    used = np.concatenate([np.ones((len(parts), 1), bool), more[:, :-1]], axis=1)
    return ((parts & 0x7F) | (more << 7))[used].astype(np.uint8).tobytes()


def _scores_data(scores: np.ndarray) -> dict[str, Any]:
    """Quantize the scores of every stride-th pixel of every stride-th row, level by level."""
    levels, height, width = scores.shape
    stride = 1
    while levels * -(-height // stride) * -(-width // stride) > MAX_SCORES:
        stride += 1
    scores = scores[:, ::stride, ::stride].astype(np.float64)
    known = np.isfinite(scores)
    largest = max(1.0, float(scores[known].max(initial=0.0)))  # scores of queries may exceed 1
    steps = np.clip(np.round(np.where(known, scores, 0) / largest * _STEPS), 0, _STEPS)
    values = np.where(known, steps, NO_SCORE).astype(np.uint8)
    return {"stride": stride, "unit": largest / _STEPS, "bytes": _base64(values.tobytes())}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
