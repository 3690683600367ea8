"""Tensor operations that know a class tree but no config."""

from .tree_ops import ancestor_min, descendant_max, path_product, path_sum, sum_over_leaves

__all__ = [
    "ancestor_min",
    "descendant_max",
    "path_product",
    "path_sum",
    "sum_over_leaves",
]
