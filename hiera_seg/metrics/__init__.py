"""Count predictions over a class tree and compute scores from the counts, with numpy only."""

from hiera_seg.metrics.calibration import CalibrationCounts, LevelCalibration, level_calibrations
from hiera_seg.metrics.confusion import PathCounts, collapse_direct, collapse_nodes, count_image
from hiera_seg.metrics.safe_depth import (
    SafeDepthCounts,
    SafeDepthCurve,
    node_information,
    safe_depth_curve,
)
from hiera_seg.metrics.scores import (
    HierarchyScores,
    LevelScores,
    hierarchy_scores,
    level_scores,
    mean_tree_distance,
    score_names,
)

__all__ = [
    "CalibrationCounts",
    "HierarchyScores",
    "LevelCalibration",
    "LevelScores",
    "PathCounts",
    "SafeDepthCounts",
    "SafeDepthCurve",
    "collapse_direct",
    "collapse_nodes",
    "count_image",
    "hierarchy_scores",
    "level_calibrations",
    "level_scores",
    "mean_tree_distance",
    "node_information",
    "safe_depth_curve",
    "score_names",
]
