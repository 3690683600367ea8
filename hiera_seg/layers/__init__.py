"""Provide tensor operations on class trees and network layers, independent of configs."""

from hiera_seg.layers.deformable_attention import (
    MultiScaleDeformableAttention,
    multi_scale_deformable_attention,
)
from hiera_seg.layers.pixel_embeddings import PixelEmbeddings
from hiera_seg.layers.point_sampling import Points, draw_points, draw_uncertain_points, sample_maps
from hiera_seg.layers.positions import sine_positions
from hiera_seg.layers.scores import DECODE_VARIANTS, NodeOutput, mean_scores, node_scores
from hiera_seg.layers.sibling_adjustment import SiblingAdjustment, sibling_shares
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.layers.tree_ops import (
    ancestor_min,
    descendant_max,
    path_sum,
    sum_over_leaves,
)
