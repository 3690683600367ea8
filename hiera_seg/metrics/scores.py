"""Compute all scores of an evaluation from its counts. Definitions: docs/metrics.md."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics.confusion import PathCounts, collapse_direct, collapse_nodes


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


def level_scores(matrix: np.ndarray, scored: np.ndarray | None = None) -> LevelScores:
    """Compute the scores of one level from its confusion matrix.

    Args:
        matrix: integers (K, K) or (K + 1, K), pixels by [predicted, true class]. Row K counts
            predictions of no class: false negatives of the true class and no false positives.
        scored: bool (K,), the classes that are included in the means; None: all of them. Pixels
            predicted as one of the others are still errors.
    """
    num_classes = matrix.shape[1]
    scored = np.ones(num_classes, bool) if scored is None else np.asarray(scored, bool)
    true_positives = matrix.diagonal().astype(np.float64)
    truth = matrix.sum(axis=0).astype(np.float64)
    union = truth + matrix.sum(axis=1)[:num_classes] - true_positives
    present = truth > 0
    iou, acc, share = (np.full(num_classes, np.nan) for _ in range(3))
    iou[present] = true_positives[present] / union[present]
    acc[present] = true_positives[present] / truth[present]
    total = truth.sum()
    if total > 0:
        share = truth / total
    counted = present & scored
    return LevelScores(
        iou=iou,
        acc=acc,
        share=share,
        scored=scored,
        miou=_ratio(iou[counted].sum(), counted.sum()),
        fwiou=_ratio((iou[counted] * truth[counted]).sum(), truth[counted].sum()),
        macc=_ratio(acc[counted].sum(), counted.sum()),
        pacc=_ratio(true_positives.sum(), total),
    )


def mean_tree_distance(
    nodes: np.ndarray,
    hierarchy: Hierarchy,
    *,
    wrong_only: bool = False,
    unpredicted: np.ndarray | None = None,
) -> float:
    """Return the mean number of edges between predicted and true node, over known leaves.

    Args:
        nodes: integers (N, N), pixels by [predicted node, true node].
        hierarchy: the tree with N nodes; two top-level nodes are two edges apart.
        wrong_only: whether to average over wrongly labelled pixels only (mistake severity).
        unpredicted: integers (N,), pixels without a predicted node by their true node. They count
            with the edges from the root above all top-level nodes.

    Returns:
        Edges; NaN if there is no such pixel.
    """
    leaves = hierarchy.num_leaves
    counts = nodes[:, :leaves]
    edges = (counts * hierarchy.distance_matrix[:, :leaves].astype(np.int64)).sum()
    pixels = counts.sum() - (counts.diagonal().sum() if wrong_only else 0)
    if unpredicted is not None:
        edges += (unpredicted[:leaves] * (hierarchy.depth[:leaves] + 1)).sum()
        pixels += unpredicted[:leaves].sum()
    return _ratio(edges, pixels)


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
    levels = hierarchy.level_names
    suffixes = ["", *(f"_{name}" for name in levels)]
    names = [f"{kind}{suffix}" for suffix in suffixes for kind in ("mIoU", "fwIoU", "mACC", "pACC")]
    names += [f"mIoU_direct_{name}" for name in levels]
    names += ["consistency", "mIoU_all", "tree_distance", "mistake_severity"]
    for level, prefix in [(-1, ""), *((i, f"{name}-") for i, name in enumerate(levels))]:
        classes = [hierarchy.display_names[v] for v in hierarchy.level_nodes(level)]
        names += [f"{kind}-{prefix}{name}" for kind in ("IoU", "ACC") for name in classes]
    return names


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
    h = counts.hierarchy
    scored = _scored_classes(h, unscored)
    direct = consistency = None
    if 0 < counts.num_images == counts.num_direct_images:
        direct = tuple(
            level_scores(collapse_direct(counts.direct[level], h, level), scored[level])
            for level in range(h.num_levels)
        )
        consistency = _ratio(counts.consistent, counts.nodes.sum())
    return HierarchyScores(
        hierarchy=h,
        merged=tuple(
            level_scores(collapse_nodes(counts.nodes, h, level, counts.unpredicted), scored[level])
            for level in range(h.num_levels)
        ),
        direct=direct,
        consistency=consistency,
        tree_distance=mean_tree_distance(counts.nodes, h, unpredicted=counts.unpredicted),
        mistake_severity=mean_tree_distance(
            counts.nodes, h, wrong_only=True, unpredicted=counts.unpredicted
        ),
        num_void_classes=num_void_classes,
    )


def _scored_classes(hierarchy: Hierarchy, unscored: Iterable[int]) -> list[np.ndarray]:
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
