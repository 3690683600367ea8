"""Pictures of label maps and trees."""

from hiera_seg.visualization.legend import legend
from hiera_seg.visualization.overlay import cut_at_level, overlay_labels, overlay_mistakes
from hiera_seg.visualization.save import save_levels
from hiera_seg.visualization.strip import draw_levels

__all__ = [
    "cut_at_level",
    "draw_levels",
    "legend",
    "overlay_labels",
    "overlay_mistakes",
    "save_levels",
]
