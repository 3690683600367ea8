"""Which node a pixel is labelled with at each level, from the scores of nodes and leaves."""

import torch
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import NodeScores
from hiera_seg.layers.tree_index import TreeIndex


def best_channel(scores: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Maximum over channels and the first channel that has it: (C, H, W) -> (H, W), (H, W) int64.

    Where a score is NaN, so is the maximum, and all channels tie: the first one is taken.
    `Tensor.argmax` across channels takes ten times as long on a CPU.

    Args:
        scores: (C, H, W) float.
        allowed: bool (C, H, W), the channels to choose from, at least one everywhere; None: all.
    """
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    # Every runtime of an exported file carries NaN through a sum, not every one through a maximum.
    best, total = scores.amax(0), scores.sum(0)
    best = torch.where(total.isnan(), total, best)
    hit = (scores < best).logical_not_()
    if allowed is not None:
        hit = hit.logical_and_(allowed)
    channels = scores.shape[0]
    dtype = torch.uint8 if channels <= 255 else torch.int16 if channels < 1 << 15 else torch.int32
    countdown = torch.arange(channels, 0, -1, dtype=dtype, device=scores.device)
    return best, channels - hit.to(dtype).mul_(countdown[:, None, None]).amax(0).long()


def path_labels(ranking: Tensor, hierarchy: Hierarchy) -> list[Tensor]:
    """Labels per level of the best leaf's path.

    Args:
        ranking: (L, H, W) values that order the leaves.
        hierarchy: the tree.

    Returns:
        For each level, coarse to fine, (H, W) int64 node ids.
    """
    leaf = best_channel(ranking)[1]
    leaf_levels = TreeIndex.of(hierarchy, ranking.device).leaf_levels
    return [*(nodes[leaf] for nodes in leaf_levels[:-1]), leaf]


def direct_labels(scores: NodeScores, hierarchy: Hierarchy) -> list[Tensor]:
    """Labels per level, each the best of the nodes at the level by itself; as `path_labels`."""
    tables = TreeIndex.of(hierarchy, scores.at_level(0).device).levels
    return [
        table.ids[best_channel(scores.at_level(level)[0])[1]] for level, table in enumerate(tables)
    ]


def greedy_walk(scores: NodeScores, hierarchy: Hierarchy) -> tuple[list[Tensor], list[Tensor]]:
    """Walk down from the best top-level node to the best child, and again, to a leaf.

    Args:
        scores: of one image.
        hierarchy: the tree.

    Returns:
        ``(steps, limits)``: for each level, coarse to fine, (H, W) int64, the node of the walk;
        and for each level but the coarsest (H, W) float, the lowest score on the way there: the
        largest threshold with which the walk gets there; -inf behind a score that is NaN.
    """
    steps: list[Tensor] = []
    limits: list[Tensor] = []
    for level, table in enumerate(TreeIndex.of(hierarchy, scores.at_level(0).device).levels):
        candidates = scores.at_level(level)[0]
        if level == 0:
            steps.append(table.ids[best_channel(candidates)[1]])
            continue
        # Only children of the node the walk stands at may win. A leaf stands for itself, as its
        # own only child.
        below = table.above[:, None, None] == steps[-1]
        best, index = best_channel(candidates, below)
        best = torch.where(best.isnan(), -torch.inf, best)
        steps.append(table.ids[index])
        limits.append(torch.minimum(best, limits[-1]) if limits else best)
    return steps, limits


def stop_walk(steps: list[Tensor], limits: list[Tensor], threshold: float) -> list[Tensor]:
    """Labels per level of a walk that goes no further than its scores are at least `threshold`.

    Args:
        steps, limits: of `greedy_walk`.
        threshold: the least score.

    Returns:
        As `path_labels`; an inner node stands at the level where the walk stopped there, and at
        every finer one.
    """
    labels = steps[:1]
    for step, limit in zip(steps[1:], limits, strict=True):
        labels.append(torch.where(limit >= threshold, step, labels[-1]))
    return labels


def label_scores(labels: list[Tensor], scores: NodeScores, hierarchy: Hierarchy) -> list[Tensor]:
    """The score of each label at its level.

    Args:
        labels: for each level, coarse to fine, (H, W) int64 node ids; the label may be an inner
            node of a coarser level, as where a walk stopped.
        scores: of the same pixels.
        hierarchy: the tree.

    Returns:
        For each level (H, W) float. A label of a coarser level keeps the score it has there.
    """
    result: list[Tensor] = []
    for level, (nodes, table) in enumerate(
        zip(labels, TreeIndex.of(hierarchy, labels[0].device).levels, strict=True)
    ):
        position = table.position[nodes]
        score = scores.at_level(level)[0].gather(0, position.clamp(min=0)[None])[0]
        result.append(torch.where(position >= 0, score, result[-1]) if result else score)
    return result
