"""Format scores as tables: a summary of the levels, and the classes of each level."""

import math

import numpy as np
from tabulate import tabulate

from hiera_seg.metrics import HierarchyScores

# Rows of a class table before it is split into blocks side by side, and the maximum of blocks.
_ROWS_BEFORE_BREAK = 16
_MAX_BLOCKS = 3
_ABSENT = "-"
_UNSCORED = " *"


def report(scores: HierarchyScores) -> str:
    """Return the summary, the scores of whole paths, and a table of the classes of each level."""
    parts = [summary_table(scores)]
    path = [f"tree distance {_edges(scores.tree_distance)}"]
    path.append(f"mistake severity {_edges(scores.mistake_severity)}")
    if scores.consistency is not None:
        path.append(f"consistency {100 * scores.consistency:.2f} %")
    parts.append(", ".join(path))
    legend = f"classes in percent; {_ABSENT}: not in the ground truth"
    if scores.leaves_out_classes:
        parts.append(_all_classes(scores))
        legend += f"; {_UNSCORED.strip()}: not in the means"
    parts.append(legend)
    for level, name in enumerate(scores.hierarchy.level_names):
        parts.append(f"level {name}\n{class_table(scores, level)}")
    return "\n\n".join(parts)


def summary_table(scores: HierarchyScores) -> str:
    """Return one row per level: means in percent, and the number of classes in them."""
    headers = ["level", "mIoU", "mIoU direct", "fwIoU", "mACC", "pACC", "classes scored"]
    rows = []
    for level, name in enumerate(scores.hierarchy.level_names):
        merged = scores.merged[level]
        direct = None if scores.direct is None else scores.direct[level].miou
        rows.append(
            [
                name,
                _percent(merged.miou),
                _ABSENT if direct is None else _percent(direct),
                _percent(merged.fwiou),
                _percent(merged.macc),
                _percent(merged.pacc),
                f"{(merged.scored & ~np.isnan(merged.iou)).sum()} of {len(merged.iou)}",
            ]
        )
    return tabulate(rows, headers, **number_style(len(headers)))


def class_table(scores: HierarchyScores, level: int) -> str:
    """Return IoU, accuracy and share of pixels per class of a level, in percent.

    Classes fill one block of columns after another. Classes without ground truth are marked with a
    dash, and classes that are excluded from the means with a star.
    """
    merged = scores.merged[level]
    cells = [
        [
            name if scored else name + _UNSCORED,
            _percent(iou),
            _percent(acc),
            _percent(share) if share > 0 else _ABSENT,
        ]
        for name, iou, acc, share, scored in zip(
            scores.class_names(level),
            merged.iou,
            merged.acc,
            merged.share,
            merged.scored,
            strict=True,
        )
    ]
    num_blocks = min(_MAX_BLOCKS, math.ceil(len(cells) / _ROWS_BEFORE_BREAK))
    height = math.ceil(len(cells) / num_blocks)
    blocks = [cells[start : start + height] for start in range(0, len(cells), height)]
    blocks[-1] += [[""] * 4] * (height - len(blocks[-1]))
    rows = [sum(row, []) for row in zip(*blocks, strict=True)]
    headers = ["class", "IoU", "ACC", "pixels"] * len(blocks)
    return tabulate(rows, headers, **number_style(4, len(blocks)))


def _all_classes(scores: HierarchyScores) -> str:
    """Return one line on the mean over all published classes of the dataset."""
    leaves, void = scores.merged[-1], scores.num_void_classes
    unscored = (~leaves.scored).sum()
    counted = (~np.isnan(leaves.iou)).sum() + void
    kinds = [f"{unscored} not scored above"] if unscored else []
    kinds += [f"{void} void at 0"] if void else []
    return (
        f"mIoU_all {_percent(scores.miou_all)} over {counted} of the {len(leaves.iou) + void} "
        f"published classes, {' and '.join(kinds)} included"
    )


def _percent(fraction: float) -> str:
    return _ABSENT if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _edges(distance: float) -> str:
    return _ABSENT if math.isnan(distance) else f"{distance:.3f} edges"


def number_style(num_columns: int, num_blocks: int = 1) -> dict:
    """Return the arguments of `tabulate` for blocks of a column of names and columns of numbers."""
    # numbers are already formatted, and tabulate would parse a class named "1e3"
    align = (["left"] + ["right"] * (num_columns - 1)) * num_blocks
    return {"tablefmt": "pipe", "disable_numparse": True, "colalign": align}
