"""Networks: the meta-architecture, its heads and pixel decoders, and decoding of their output.

Importing this package registers everything in Detectron2's registries.
"""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)
from hiera_seg.modeling.backbones import TimmBackbone, build_hiera_timm_backbone
from hiera_seg.modeling.decode import NodeView, decode, decode_variant, decode_views
from hiera_seg.modeling.heads import (
    AuxiliaryHead,
    EmbeddingHead,
    HieraMaskFormerHead,
    HieraPixelHead,
    build_hierarchical_loss,
)
from hiera_seg.modeling.norm import fall_back_to_batch_norm
from hiera_seg.modeling.pixel_decoders import (
    HIERA_PIXEL_DECODERS,
    DeepLabV3PlusDecoder,
    FPNDecoder,
    MSDeformAttnDecoder,
    OCRDecoder,
    SeparableASPPDecoder,
    TopDownFPNDecoder,
    build_pixel_decoder,
)
from hiera_seg.modeling.segmentor import HieraSegmentor
from hiera_seg.modeling.transformer_decoder import MaskedAttentionDecoder, QueryPrediction

__all__ = [
    "HIERA_PIXEL_DECODERS",
    "AuxiliaryHead",
    "DeepLabV3PlusDecoder",
    "EmbeddingHead",
    "FPNDecoder",
    "HieraMaskFormerHead",
    "HieraPixelHead",
    "HieraSegmentor",
    "MSDeformAttnDecoder",
    "MaskedAttentionDecoder",
    "NodeView",
    "OCRDecoder",
    "QueryPrediction",
    "SeparableASPPDecoder",
    "TimmBackbone",
    "TopDownFPNDecoder",
    "build_hiera_timm_backbone",
    "build_hierarchical_loss",
    "build_pixel_decoder",
    "decode",
    "decode_variant",
    "decode_views",
    "fall_back_to_batch_norm",
]
