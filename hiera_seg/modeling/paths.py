"""Choose the node of each pixel at each level from the scores of nodes and leaves."""

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import NodeScores
from hiera_seg.layers.tree_index import TreeIndex


def best_channel(scores: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the maximum over channels and the first channel that reaches it.

    Where a score is NaN, the maximum is NaN and the first channel is returned. `Tensor.argmax`
    across channels takes ten times as long on a CPU.

    Args:
        scores: (C, H, W) float.
        allowed: bool (C, H, W), the channels to choose from, at least one per pixel; None: all.

    Returns:
        (H, W) in the dtype of the scores, and (H, W) int64.
    """
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    # All runtimes of exported files propagate NaN through a sum, but some not through a maximum.
    best, total = scores.amax(0), scores.sum(0)
    best = torch.where(total.isnan(), total, best)
    hit = (scores < best).logical_not_()
    if allowed is not None:
        hit = hit.logical_and_(allowed)
    channels = scores.shape[0]
    wide = channels >= 1 << 15 or torch.onnx.is_in_onnx_export()  # which has no maximum of int16
    dtype = torch.uint8 if channels <= 255 else torch.int32 if wide else torch.int16
    countdown = torch.arange(channels, 0, -1, dtype=dtype, device=scores.device)
    return best, channels - hit.to(dtype).mul_(countdown[:, None, None]).amax(0).long()


def path_labels(ranking: Tensor, hierarchy: Hierarchy) -> list[Tensor]:
    """Return the path of the best leaf by its ranking (L, H, W).

    Returns:
        For each level, coarse to fine, (H, W) int64 node ids.
    """
    leaf = best_channel(ranking)[1]
    leaf_levels = TreeIndex.of(hierarchy, ranking.device).leaf_levels
    return [*(nodes[leaf] for nodes in leaf_levels[:-1]), leaf]


def direct_labels(scores: NodeScores, hierarchy: Hierarchy) -> list[Tensor]:
    """Return the best node of each level by its own score, in the form of `path_labels`."""
    tables = TreeIndex.of(hierarchy, scores.at_level(0).device).levels
    return [
        table.ids[best_channel(scores.at_level(level)[0])[1]] for level, table in enumerate(tables)
    ]


def greedy_path(scores: NodeScores, hierarchy: Hierarchy) -> tuple[list[Tensor], list[Tensor]]:
    """Follow the greedy path: from the best top-level node to its best child, down to a leaf.

    Returns:
        ``(path, limits)``: for each level, coarse to fine, (H, W) int64, the node of the path; and
        for each level but the coarsest, (H, W) float, the lowest score of the path below the top,
        which is the largest minimum confidence that reaches the level (-inf from a NaN score on).
    """
    path: list[Tensor] = []
    limits: list[Tensor] = []
    for level, table in enumerate(TreeIndex.of(hierarchy, scores.at_level(0).device).levels):
        candidates = scores.at_level(level)[0]
        if level == 0:
            path.append(table.ids[best_channel(candidates)[1]])
            continue
        # Only children of the path's last node are allowed; a leaf counts as its own only child.
        below = table.above[:, None, None] == path[-1]
        best, index = best_channel(candidates, below)
        best = torch.where(best.isnan(), -torch.inf, best)
        path.append(table.ids[index])
        limits.append(torch.minimum(best, limits[-1]) if limits else best)
    return path, limits


def cut_path(path: list[Tensor], limits: list[Tensor], min_confidence: float) -> list[Tensor]:
    """Return the labels per level of a result of `greedy_path` that stops below a confidence.

    The inner node at which a path stops is the label of all finer levels.
    """
    labels = path[:1]
    for node, limit in zip(path[1:], limits, strict=True):
        labels.append(torch.where(limit >= min_confidence, node, labels[-1]))
    return labels


def label_scores(labels: list[Tensor], scores: NodeScores, hierarchy: Hierarchy) -> list[Tensor]:
    """Return the score of each label at its level, (H, W) float per level.

    A label may be an inner node of a coarser level, at which `cut_path` stopped; it keeps its score
    from there.
    """
    result: list[Tensor] = []
    for level, (nodes, table) in enumerate(
        zip(labels, TreeIndex.of(hierarchy, labels[0].device).levels, strict=True)
    ):
        position = table.position[nodes]
        score = scores.at_level(level)[0].gather(0, position.clamp(min=0)[None])[0]
        result.append(torch.where(position >= 0, score, result[-1]) if result else score)
    return result
