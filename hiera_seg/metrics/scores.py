"""Compute all scores of an evaluation from its counts. Definitions: docs/metrics.md."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics.cells import Cells
from hiera_seg.metrics.confusion import PathCounts, level_cells


@dataclass(frozen=True)
class LevelScores:
    """Scores of the K classes of one level, as fractions; NaN without ground truth.

    Attributes:
        iou: float64 (K,), TP / (TP + FP + FN) over the whole set.
        acc: float64 (K,), TP / (TP + FN).
        share: float64 (K,), share of the class in the ground truth of this level.
        scored: bool (K,), the classes that are included in the means.
        miou: mean IoU over the scored classes that occur in the ground truth.
        fwiou: the same, weighted by share.
        macc: mean accuracy over the scored classes that occur.
        pacc: share of the pixels with the correct class, over all classes.
    """

    iou: np.ndarray
    acc: np.ndarray
    share: np.ndarray
    scored: np.ndarray
    miou: float
    fwiou: float
    macc: float
    pacc: float


def class_iou(right: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Compute the IoU of classes from numbers of pixels; NaN for classes without ground truth.

    Args:
        right, truth, predicted: (..., K), pixels of each class that are correct, of the ground
            truth, and of the prediction.

    Returns:
        float64 (..., K).
    """
    iou = np.full(truth.shape, np.nan)
    return np.divide(right, truth + predicted - right, out=iou, where=truth > 0)


def level_scores(matrix: Cells | np.ndarray, scored: np.ndarray | None = None) -> LevelScores:
    """Compute the scores of one level from its confusion matrix.

    Args:
        matrix: integers (K, K) or (K + 1, K), pixels by [predicted, true class]. Row K counts
            predictions of no class: false negatives of the true class and no false positives.
        scored: bool (K,), the classes that are included in the means; None: all of them. Pixels
            predicted as one of the others are still errors.
    """
    cells = Cells.of(matrix)
    num_classes = cells.shape[1]
    scored = np.ones(num_classes, bool) if scored is None else np.asarray(scored, bool)
    right, truth = cells.diagonal().astype(np.float64), cells.column_sums().astype(np.float64)
    iou = class_iou(right, truth, cells.row_sums()[:num_classes])
    total = truth.sum()
    acc = np.divide(right, truth, out=np.full(num_classes, np.nan), where=truth > 0)
    share = truth / total if total else np.full(num_classes, np.nan)
    counted = (truth > 0) & scored
    return LevelScores(
        iou=iou,
        acc=acc,
        share=share,
        scored=scored,
        miou=_ratio(iou[counted].sum(), counted.sum()),
        fwiou=_ratio((iou[counted] * truth[counted]).sum(), truth[counted].sum()),
        macc=_ratio(acc[counted].sum(), counted.sum()),
        pacc=_ratio(right.sum(), total),
    )


def mean_tree_distance(
    nodes: Cells | np.ndarray, hierarchy: Hierarchy, *, wrong_only: bool = False
) -> float:
    """Return the mean number of edges between predicted and true node, over known leaves.

    Args:
        nodes: integers (N, N) or (N + 1, N), pixels by [predicted node, true node]. Pixels without
            a predicted node, row N, count with the edges from the root above all top-level nodes.
        hierarchy: the tree with N nodes; two top-level nodes are two edges apart.
        wrong_only: whether to average over wrongly labelled pixels only (mistake severity).

    Returns:
        Edges; NaN if there is no such pixel.
    """
    cells = Cells.of(nodes)
    known = cells.columns < hierarchy.num_leaves
    predicted, true, pixels = cells.rows[known], cells.columns[known], cells.counts[known]
    depth = np.append(hierarchy.depth, -1)
    common = np.zeros(len(pixels), np.int64)
    for level, ancestor in enumerate(hierarchy.level_ancestor):
        shared = np.append(ancestor, -1)[predicted] == ancestor[true]
        common += shared & (level <= depth[true])
    edges = depth[predicted] + depth[true] + 2 - 2 * common
    counted = pixels[predicted != true] if wrong_only else pixels
    return _ratio((edges * pixels).sum(), counted.sum())


@dataclass(frozen=True)
class HierarchyScores:
    """All scores of one evaluation, as fractions and edges.

    Attributes:
        hierarchy: the tree.
        merged: one LevelScores per level, of the predicted node's ancestor at that level.
        direct: one LevelScores per level, of the direct labels; None if there were none.
        consistency: share of the non-void pixels whose direct labels form one path, or None.
        tree_distance: mean number of edges between predicted and true leaf.
        mistake_severity: the same over wrongly labelled pixels only.
        num_void_classes: number of published classes of the dataset that are void here.
    """

    hierarchy: Hierarchy
    merged: tuple[LevelScores, ...]
    direct: tuple[LevelScores, ...] | None
    consistency: float | None
    tree_distance: float
    mistake_severity: float
    num_void_classes: int = 0

    @property
    def miou_all(self) -> float:
        """Mean IoU over every class that the dataset publishes.

        It includes the leaves that are not scored, and the void classes with an IoU of 0, which is
        that of a model that never predicts them. Equal to ``miou`` if all leaves are scored and
        there is no void class.
        """
        iou = self.merged[-1].iou
        return _ratio(np.nansum(iou), (~np.isnan(iou)).sum() + self.num_void_classes)

    @property
    def leaves_out_classes(self) -> bool:
        """Whether ``miou_all`` is a mean over more classes than ``miou``."""
        return bool(self.num_void_classes) or not self.merged[-1].scored.all()

    def as_dict(self) -> dict[str, float]:
        """Return all scores by their public names, in percent except the two in edges."""
        h = self.hierarchy
        result = _means(self.merged[-1], "")
        for name, scores in zip(h.level_names, self.merged, strict=True):
            result |= _means(scores, f"_{name}")
        if self.direct is not None:
            for name, scores in zip(h.level_names, self.direct, strict=True):
                result[f"mIoU_direct_{name}"] = 100 * scores.miou
            result["consistency"] = 100 * self.consistency
        if self.leaves_out_classes:
            result["mIoU_all"] = 100 * self.miou_all
        result["tree_distance"] = self.tree_distance
        result["mistake_severity"] = self.mistake_severity
        result |= _per_class(self.merged[-1], self.class_names(-1), "")
        for level, (name, scores) in enumerate(zip(h.level_names, self.merged, strict=True)):
            result |= _per_class(scores, self.class_names(level), f"{name}-")
        return result

    def class_names(self, level: int) -> list[str]:
        """Return the names of the classes of a level, in the order of its scores."""
        return [self.hierarchy.display_names[v] for v in self.hierarchy.level_nodes(level)]


def score_names(hierarchy: Hierarchy) -> list[str]:
    """Return the names of all scores that ``HierarchyScores.as_dict`` may contain."""
    nothing = hierarchy_scores(PathCounts(hierarchy, -1), num_void_classes=1)
    every = replace(nothing, direct=nothing.merged, consistency=float("nan"))
    return list(every.as_dict())


def hierarchy_scores(
    counts: PathCounts, *, unscored: Iterable[int] = (), num_void_classes: int = 0
) -> HierarchyScores:
    """Compute all scores from the counts; direct ones only if all images had direct labels.

    Args:
        counts: the counts of one evaluation.
        unscored: ids of leaves that are counted but excluded from the means. At a coarser level a
            node is excluded if all its leaves are.
        num_void_classes: number of published classes of the dataset that are void here, for
            ``miou_all``.
    """
    h, nodes = counts.hierarchy, counts.nodes
    scored = scored_classes(h, unscored)
    direct = consistency = None
    if 0 < counts.num_images == counts.num_direct_images:
        direct = tuple(
            level_scores(level_cells(cells, h, level), scored[level])
            for level, cells in enumerate(counts.direct)
        )
        consistency = _ratio(counts.consistent, nodes.counts.sum())
    return HierarchyScores(
        hierarchy=h,
        merged=tuple(
            level_scores(level_cells(nodes, h, level), scored[level])
            for level in range(h.num_levels)
        ),
        direct=direct,
        consistency=consistency,
        tree_distance=mean_tree_distance(nodes, h),
        mistake_severity=mean_tree_distance(nodes, h, wrong_only=True),
        num_void_classes=num_void_classes,
    )


def scored_classes(hierarchy: Hierarchy, unscored: Iterable[int]) -> list[np.ndarray]:
    """Return for each level bool (K,): whether a class has a leaf that is scored."""
    scored_leaf = np.ones(hierarchy.num_leaves, bool)
    scored_leaf[list(unscored)] = False
    levels = []
    for level in range(hierarchy.num_levels):
        num_scored = np.zeros(len(hierarchy.level_nodes(level)), np.int64)
        np.add.at(num_scored, hierarchy.leaf_to_level(level), scored_leaf)
        levels.append(num_scored > 0)
    return levels


def _means(scores: LevelScores, suffix: str) -> dict[str, float]:
    return {
        f"mIoU{suffix}": 100 * scores.miou,
        f"fwIoU{suffix}": 100 * scores.fwiou,
        f"mACC{suffix}": 100 * scores.macc,
        f"pACC{suffix}": 100 * scores.pacc,
    }


def _per_class(scores: LevelScores, names: list[str], prefix: str) -> dict[str, float]:
    iou = {f"IoU-{prefix}{name}": 100 * float(v) for name, v in zip(names, scores.iou, strict=True)}
    acc = {f"ACC-{prefix}{name}": 100 * float(v) for name, v in zip(names, scores.acc, strict=True)}
    return iou | acc


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
