"""Count predictions over a class tree and compute scores from the counts, with numpy only."""

from hiera_seg.metrics.bootstrap import (
    PairedDifference,
    mean_iou,
    resample_weights,
    resampled_iou,
)
from hiera_seg.metrics.boundary import BoundaryCounts
from hiera_seg.metrics.calibration import CalibrationCounts, LevelCalibration, level_calibrations
from hiera_seg.metrics.cells import Cells
from hiera_seg.metrics.confusion import (
    PathCounts,
    collapse_nodes,
    count_image,
    index_at_level,
    level_cells,
)
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
    scored_classes,
)
