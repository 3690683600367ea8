"""Confusion matrices over a class tree, and every number made from them. numpy only."""

from .confusion import PathCounts, collapse_direct, collapse_nodes, count_image
from .scores import (
    HierarchyScores,
    LevelScores,
    hierarchy_scores,
    level_scores,
    mean_tree_distance,
)

__all__ = [
    "HierarchyScores",
    "LevelScores",
    "PathCounts",
    "collapse_direct",
    "collapse_nodes",
    "count_image",
    "hierarchy_scores",
    "level_scores",
    "mean_tree_distance",
]
