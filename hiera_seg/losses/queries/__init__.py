"""Match the queries of mask transformers and compute their class and mask losses (Mask2Former)."""

from hiera_seg.losses.queries.classes import QUERY_OPTIONS
from hiera_seg.losses.queries.loss import QueryLoss
