"""Compute node weights from pixel counts (against class imbalance), and read and write counts."""

import json
import math
from pathlib import Path

import numpy as np

from hiera_seg.disk import replace_text
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.numbering import subtree_sums

NODE_WEIGHT_METHODS = ("inverse", "inverse_sqrt", "median")


def node_weights_from_counts(
    pixels: np.ndarray, hierarchy: Hierarchy, method: str, *, maximum: float = math.inf
) -> np.ndarray:
    """Compute one weight per node: the rarer the node at its level, the larger.

    The frequency f of a node is its share, with its descendants, in the pixels of all nodes that
    count at its level: leaves count at the last level, an inner node at its depth. Then

        inverse: 1 / f      inverse_sqrt: 1 / sqrt(f)      median: (median of f) / f

    where the first two are scaled to a mean of 1 over the nodes of a level. The weight of a node
    without pixels is 1; it is excluded from mean and median.

    Args:
        pixels: (N,), number of pixels labelled with each node itself, 0 or more.
        hierarchy: the tree.
        method: one of `NODE_WEIGHT_METHODS`.
        maximum: upper bound of the weights, which keeps a class of few pixels from dominating.

    Returns:
        float64 (N,), all above 0.

    Raises:
        ValueError: an unknown method, a wrong shape, negative counts, no pixel at all, or a maximum
            that is not above 0.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    if method not in NODE_WEIGHT_METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {NODE_WEIGHT_METHODS}")
    if pixels.shape != (hierarchy.num_nodes,) or not (pixels >= 0).all():
        raise ValueError(
            f"pixels must be numbers of 0 or more, one for each of the {hierarchy.num_nodes} nodes "
            f"of tree {hierarchy.name!r}; found shape {pixels.shape}, minimum "
            f"{pixels.min(initial=0)}"
        )
    if not maximum > 0:
        raise ValueError(f"maximum is {maximum}; it must be above 0")
    if not pixels.any():
        raise ValueError("pixels are all 0; node weights need the counts of a labelled dataset")
    subtree = subtree_sums(hierarchy.parent, hierarchy.depth, pixels)
    weights = np.ones(hierarchy.num_nodes)
    for start, stop in hierarchy.level_slices:
        seen = start + np.flatnonzero(subtree[start:stop])
        if not len(seen):
            continue
        frequency = subtree[seen] / subtree[seen].sum()
        if method == "median":
            weights[seen] = np.median(frequency) / frequency
        else:
            raw = frequency ** (-1.0 if method == "inverse" else -0.5)
            weights[seen] = raw / raw.mean()
    return weights.clip(max=maximum)


def write_node_counts(path: str | Path, pixels: dict[str, int], **about: object) -> None:
    """Write counts as JSON, for :func:`read_node_counts`.

    Args:
        path: the file.
        pixels: number of pixels labelled with each node itself, by its path in the tree.
        about: further entries of the file, of types that JSON supports.
    """
    text = json.dumps({**about, "pixels": pixels}, indent=1)
    replace_text(path, f"{text}\n")


def read_node_counts(path: str | Path, hierarchy: Hierarchy) -> np.ndarray:
    """Read a file written by :func:`write_node_counts`, for a tree that has all of its nodes.

    Returns:
        int64 (N,), pixels labelled with each node itself; 0 for nodes that are not in the file.

    Raises:
        ValueError: the file cannot be read, has another format, or holds a node that is not in the
            tree or a count outside of 0 to 2^63 - 1.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        counts = {str(name): int(count) for name, count in found["pixels"].items()}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the content may be of any kind
        raise ValueError(
            f'{path} is not a file of tools/count_nodes.py, json with {{"pixels": {{path: count}}}}'
        ) from error
    ids = {name: node for node, name in enumerate(hierarchy.paths)}
    unknown = [name for name in counts if name not in ids]
    if unknown:
        raise ValueError(
            f"{path} counts {unknown[0]!r}, which is not in tree {hierarchy.name!r}; count the "
            "training set of this tree again with tools/count_nodes.py"
        )
    wrong = [name for name, count in counts.items() if not 0 <= count < 2**63]
    if wrong:
        raise ValueError(
            f"{path} counts {counts[wrong[0]]} pixels of {wrong[0]!r}; it must be 0 to 2^63 - 1"
        )
    pixels = np.zeros(hierarchy.num_nodes, dtype=np.int64)
    for name, count in counts.items():
        pixels[ids[name]] = count
    return pixels
