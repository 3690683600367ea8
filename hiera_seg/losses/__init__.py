"""Compute losses on node logits and embeddings, as functions, modules or weighted sums."""

from hiera_seg.losses.bce import bce_loss
from hiera_seg.losses.build import HierarchicalLoss
from hiera_seg.losses.level_ce import level_ce_loss
from hiera_seg.losses.marginal_ce import marginal_ce_loss
from hiera_seg.losses.node_weights import (
    NODE_WEIGHT_METHODS,
    node_weights_from_counts,
    read_node_counts,
    write_node_counts,
)
from hiera_seg.losses.normalizers import valid_pixels
from hiera_seg.losses.queries import QUERY_OPTIONS, QueryLoss
from hiera_seg.losses.registry import HIERA_LOSSES, declared_decoding
from hiera_seg.losses.rmi import rmi_loss
from hiera_seg.losses.term import LossTerm
from hiera_seg.losses.tree_min import tree_min_loss
from hiera_seg.losses.tree_triplet import tree_triplet_loss, triplet_weight
