"""Draw label maps and trees."""

import importlib.util

if importlib.util.find_spec("cv2") is None:
    raise ImportError("drawing needs OpenCV: pip install opencv-python-headless (or opencv-python)")

from hiera_seg.visualization.legend import legend
from hiera_seg.visualization.overlay import (
    cut_at_level,
    cut_at_levels,
    overlay_labels,
    overlay_mistakes,
)
from hiera_seg.visualization.save import draw_kinds, save_label_map, save_levels
from hiera_seg.visualization.strip import draw_levels
from hiera_seg.visualization.video import VideoWriter
