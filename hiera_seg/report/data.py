"""Collect the numbers of an html report as plain data: tree, levels, confusion, curves.

The scripts of the page read these data. Node ids are those of the tree. The classes of a level are
in depth-first order, which makes related classes adjacent in tables and matrices.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.metrics import level_scores

# How two classes of a level are related; the scripts of the page use the same order.
RIGHT, SIBLING, COUSIN, STRANGER, ABOVE = range(5)
MAX_CELLS = 20_000  # the largest confusions of a level
MAX_POINTS = 1_000  # of a curve


def tree_data(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return the names, parents and colours of a tree, and each node's ancestor at each level."""
    own = np.arange(hierarchy.num_nodes)
    standing = [np.where(row < 0, own, row).tolist() for row in hierarchy.level_ancestor]
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in tree_colors(hierarchy).tolist()]
    return {
        "name": hierarchy.name,
        "levels": list(hierarchy.level_names),
        "names": list(hierarchy.node_names),
        "display": list(hierarchy.display_names),
        "parent": hierarchy.parent.tolist(),
        "depth": hierarchy.depth.tolist(),
        "color": colors,
        "standing": standing,
        "leaves": hierarchy.num_leaves,
    }


def relations(hierarchy: Hierarchy, nodes: np.ndarray) -> np.ndarray:
    """Classify how the K nodes of one level are related.

    Returns:
        uint8 (K, K): ``RIGHT`` on the diagonal, ``SIBLING`` for nodes of the same parent,
        ``COUSIN`` for nodes with another common ancestor, else ``STRANGER``.
    """
    top = np.asarray(hierarchy.level_ancestor[0])[nodes]
    parent = hierarchy.parent[nodes]
    result = np.where(top[:, None] == top, COUSIN, STRANGER)
    result[(parent[:, None] == parent) & (parent >= 0)] = SIBLING
    np.fill_diagonal(result, RIGHT)
    return result.astype(np.uint8)


def level_data(matrix: np.ndarray, hierarchy: Hierarchy, level: int) -> dict[str, Any]:
    """Compute the scores and confusions of the classes of a level.

    Args:
        matrix: int64 (K + 1, K), pixels by [predicted, true class] in the order of
            ``level_nodes(level)``, as in the evaluator's ``confusion_<level>.npz``.
        hierarchy: the tree.
        level: index of the level.

    Returns:
        Lists over the K classes in depth-first order: ``nodes``, ``iou``, ``acc``, ``share``
        (fractions or None), ``pixels`` (true ones), ``predicted``, ``kinds`` (K lists of the pixels
        that are right, predicted as a sibling, cousin or stranger, or above the level); and
        ``cells``, the largest confusions as ``[true, predicted, pixels]`` by index into ``nodes``,
        with the number of omitted ones as ``cells_left_out``.
    """
    nodes = np.asarray(hierarchy.level_nodes(level))
    order = np.argsort(np.argsort(hierarchy.depth_first)[nodes])
    nodes = nodes[order]
    above = matrix[-1][order]
    matrix = matrix[:-1][np.ix_(order, order)]
    scores = level_scores(np.concatenate([matrix, above[None]]))

    related = relations(hierarchy, nodes)
    kinds = [np.where(related == kind, matrix, 0).sum(axis=0) for kind in range(ABOVE)]
    predicted, true = np.nonzero(matrix * (related != RIGHT))
    counts = matrix[predicted, true]
    largest = np.argsort(-counts, kind="stable")[:MAX_CELLS]
    cells = np.stack([true[largest], predicted[largest], counts[largest]], axis=1)
    return {
        "nodes": nodes.tolist(),
        "iou": _fractions(scores.iou),
        "acc": _fractions(scores.acc),
        "share": _fractions(scores.share),
        "pixels": (matrix.sum(axis=0) + above).tolist(),
        "predicted": matrix.sum(axis=1).tolist(),
        "kinds": np.stack([*kinds, above], axis=1).tolist(),
        "cells": cells.tolist(),
        "cells_left_out": len(counts) - len(largest),
    }


def curve_data(
    lines: Sequence[str], levels: Sequence[str], max_iter: int | None = None
) -> dict[str, list[dict]]:
    """Read the losses and mIoU of a run from the lines of Detectron2's metrics.json.

    Lines that cannot be parsed, such as the last one of a killed run, are skipped. If a run was
    resumed, or another run started in the same folder, its lines replace older ones of the same
    and later iterations.

    Args:
        lines: JSON objects with the key "iteration".
        levels: names of the tree's levels.
        max_iter: SOLVER.MAX_ITER. Detectron2 logs the last evaluation one iteration later.

    Returns:
        "losses" and "miou": lists of ``{"name", "x", "y"}``, where x is the iteration from 1 on.
    """
    series: dict[str, dict[int, float]] = defaultdict(dict)
    last: dict[str, int] = {}
    for line in lines:
        try:
            point = json.loads(line)
            iteration = int(point.pop("iteration")) + 1
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        # Iterations of one metric increase; only those of different metrics may be out of order
        if any(last.get(key, 0) >= iteration for key in point):
            for key in series:
                series[key] = {i: value for i, value in series[key].items() if i < iteration}
            last = {key: max(points, default=0) for key, points in series.items()}
        for key, value in point.items():
            last[key] = iteration
            if isinstance(value, int | float) and math.isfinite(value):
                series[key][iteration] = float(value)
    if max_iter is not None:
        for points in series.values():
            if (last_evaluation := points.pop(max_iter + 1, None)) is not None:
                points[max_iter] = last_evaluation
    order = [f"mIoU_{level}" for level in levels]
    losses = [key for key in series if re.search(r"(^|_)loss(_|$)", key.rpartition("/")[2])]
    miou = [key for key in series if key.rpartition("/")[2] in order]
    losses.sort(key=lambda key: (key != "total_loss", key))
    miou.sort(key=lambda key: (key.rpartition("/")[0], order.index(key.rpartition("/")[2])))
    sources = {key.rpartition("/")[0] for key in miou}
    names = {key: key if len(sources) > 1 else key.rpartition("/")[2] for key in miou}
    return {
        "losses": [_curve(key, series[key]) for key in losses],
        "miou": [_curve(names[key].replace("mIoU_", ""), series[key]) for key in miou],
    }


def _curve(name: str, points: Mapping[int, float]) -> dict[str, Any]:
    x = sorted(points)
    step = -(-len(x) // MAX_POINTS)
    x = x[(len(x) - 1) % step :: step] if x else x  # includes the last point
    return {"name": name, "x": x, "y": [float(f"{points[i]:.5g}") for i in x]}


def _fractions(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(v) else round(v, 6) for v in values.tolist()]
