"""Tensor operations that know a class tree but no config."""

from .scores import DECODE_VARIANTS, NodeOutput, node_scores
from .tree_ops import ancestor_min, descendant_max, path_product, path_sum, sum_over_leaves

__all__ = [
    "DECODE_VARIANTS",
    "NodeOutput",
    "ancestor_min",
    "descendant_max",
    "node_scores",
    "path_product",
    "path_sum",
    "sum_over_leaves",
]
