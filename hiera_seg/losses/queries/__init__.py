"""Losses of mask transformers: matched queries, their classes and their masks (Mask2Former)."""

from hiera_seg.losses.queries.classes import QUERY_OPTIONS
from hiera_seg.losses.queries.loss import QueryLoss

__all__ = ["QUERY_OPTIONS", "QueryLoss"]
