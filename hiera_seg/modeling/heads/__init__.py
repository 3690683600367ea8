"""Predict node outputs and losses from backbone features."""

from hiera_seg.modeling.heads.auxiliary import AuxiliaryHead
from hiera_seg.modeling.heads.base import HieraHead
from hiera_seg.modeling.heads.embedding import EmbeddingHead
from hiera_seg.modeling.heads.loss import build_hierarchical_loss
from hiera_seg.modeling.heads.maskformer import HieraMaskFormerHead
from hiera_seg.modeling.heads.pixel import HieraPixelHead
