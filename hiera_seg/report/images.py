"""Images of an html report: small, yet each pixel knows its path and its scores."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from hiera_seg.hierarchy import Hierarchy

MAX_SIDE = 640  # pixels of an image in the report
MAX_SCORES = 300_000  # bytes of an image's scores; they are thinned out to fit
NO_SCORE = 255
_STEPS = 250  # of a score


@dataclass(frozen=True)
class ReportImage:
    """One image of a report.

    Attributes:
        name: to show.
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integers, the predicted node of each pixel: a leaf, or an inner node where
            the prediction stops early.
        truth: (H, W) integers, the true node; other values are void. None: not known.
        scores: float (num_levels, H, W), the score of the predicted path's node at each level,
            NaN where there is none. None: not known.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None = None
    scores: np.ndarray | None = None


def image_data(sample: ReportImage, hierarchy: Hierarchy, max_side: int = MAX_SIDE) -> dict:
    """An image for the page: JPEG, label maps in runs, scores in steps of a 250th.

    Args:
        sample: at its own size.
        hierarchy: the tree of its labels.
        max_side: length of the longer side in the report; larger images are reduced, labels and
            scores by taking the nearest pixel.

    Returns:
        ``name``, ``width``, ``height``, ``jpeg``, ``labels``, ``truth`` and ``scores``, the last
        two None where they are not known. Bytes are in base64.
    """
    height, width = sample.labels.shape
    factor = min(1.0, max_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = np.ascontiguousarray(sample.image)
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # the middle of the pixels that one pixel of the report stands for
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    nearest = np.ix_(rows, columns)
    scores = None
    if sample.scores is not None:
        scores = _scores_data(sample.scores[:, rows][:, :, columns])
    return {
        "name": sample.name,
        "width": size[0],
        "height": size[1],
        "jpeg": _jpeg(image),
        "labels": encode_runs(sample.labels[nearest], hierarchy.num_nodes),
        "truth": None
        if sample.truth is None
        else encode_runs(sample.truth[nearest], hierarchy.num_nodes),
        "scores": scores,
    }


def encode_runs(labels: np.ndarray, num_nodes: int) -> str:
    """A label map row by row as runs of (value, length), both as LEB128 numbers, in base64.

    Args:
        labels: (H, W) integers; node v is written as v + 1, any value outside [0, N) as 0.
        num_nodes: N.
    """
    flat = labels.astype(np.int64).ravel()
    flat = np.where((flat >= 0) & (flat < num_nodes), flat + 1, 0)
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    lengths = np.diff(np.append(starts, flat.size))
    return _base64(_leb128(np.stack([flat[starts], lengths], axis=1).ravel()))


def _leb128(numbers: np.ndarray) -> bytes:
    """Numbers of 7 bits a byte, the lowest first; the highest bit says that more follow."""
    parts = numbers[:, None] >> np.arange(0, 35, 7)
    more = np.concatenate([parts[:, 1:] > 0, np.zeros((len(parts), 1), bool)], axis=1)
    used = np.concatenate([np.ones((len(parts), 1), bool), more[:, :-1]], axis=1)
    return ((parts & 0x7F) | (more << 7))[used].astype(np.uint8).tobytes()


def _scores_data(scores: np.ndarray) -> dict[str, Any]:
    """Scores at every stride-th pixel of every stride-th row, levels one after the other."""
    levels, height, width = scores.shape
    stride = 1
    while levels * -(-height // stride) * -(-width // stride) > MAX_SCORES:
        stride += 1
    scores = scores[:, ::stride, ::stride].astype(np.float64)
    known = np.isfinite(scores)
    largest = max(1.0, float(scores[known].max(initial=0.0)))  # queries may score more than 1
    steps = np.clip(np.round(np.where(known, scores, 0) / largest * _STEPS), 0, _STEPS)
    values = np.where(known, steps, NO_SCORE).astype(np.uint8)
    return {"stride": stride, "unit": largest / _STEPS, "bytes": _base64(values.tobytes())}


def _jpeg(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return _base64(buffer.getvalue())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
