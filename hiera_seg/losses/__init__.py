"""Losses on node logits and embeddings: functions, their modules, and the weighted sum of them."""

from .build import HierarchicalLoss
from .checks import valid_pixels
from .cross_entropy import bce_loss, level_ce_loss, marginal_ce_loss
from .node_weights import (
    NODE_WEIGHT_METHODS,
    node_weights_from_counts,
    read_node_counts,
    write_node_counts,
)
from .queries import QueryLoss
from .query_classes import QUERY_OPTIONS
from .registry import HIERA_LOSSES
from .rmi import rmi_loss
from .tree_min import tree_min_loss
from .tree_triplet import tree_triplet_loss, triplet_weight

__all__ = [
    "HIERA_LOSSES",
    "NODE_WEIGHT_METHODS",
    "QUERY_OPTIONS",
    "HierarchicalLoss",
    "QueryLoss",
    "bce_loss",
    "level_ce_loss",
    "marginal_ce_loss",
    "node_weights_from_counts",
    "read_node_counts",
    "rmi_loss",
    "tree_min_loss",
    "tree_triplet_loss",
    "triplet_weight",
    "valid_pixels",
    "write_node_counts",
]
