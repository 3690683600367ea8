"""Build networks (meta-architecture, heads, pixel decoders) and decode their output.

Importing this package registers all parts in Detectron2's registries.
"""

import hiera_seg.compat  # must be imported before detectron2
from hiera_seg.modeling.backbones import TimmBackbone, build_hiera_timm_backbone
from hiera_seg.modeling.decode import NodeView, decode, decode_variant
from hiera_seg.modeling.heads import (
    AuxiliaryHead,
    EmbeddingHead,
    HieraHead,
    HieraMaskFormerHead,
    HieraPixelHead,
    build_hierarchical_loss,
)
from hiera_seg.modeling.modes import evaluation_mode
from hiera_seg.modeling.norm import fall_back_to_batch_norm
from hiera_seg.modeling.options import DecodeOptions
from hiera_seg.modeling.pixel_decoders import (
    HIERA_PIXEL_DECODERS,
    DeepLabV3PlusDecoder,
    FPNDecoder,
    MSDeformAttnDecoder,
    OCRDecoder,
    PixelFeatures,
    SeparableASPPDecoder,
    TopDownFPNDecoder,
    build_pixel_decoder,
)
from hiera_seg.modeling.segmentor import HieraSegmentor
from hiera_seg.modeling.transformer_decoder import MaskedAttentionDecoder, QueryPrediction
