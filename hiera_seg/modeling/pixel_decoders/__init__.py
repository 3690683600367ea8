"""Decode backbone features to one feature vector per pixel."""

from hiera_seg.modeling.pixel_decoders.build import (
    HIERA_PIXEL_DECODERS,
    PixelFeatures,
    build_pixel_decoder,
)
from hiera_seg.modeling.pixel_decoders.deeplab import DeepLabV3PlusDecoder
from hiera_seg.modeling.pixel_decoders.fpn import FPNDecoder
from hiera_seg.modeling.pixel_decoders.ms_deform_attn import MSDeformAttnDecoder
from hiera_seg.modeling.pixel_decoders.ocr import OCRDecoder
from hiera_seg.modeling.pixel_decoders.sep_aspp import SeparableASPPDecoder
from hiera_seg.modeling.pixel_decoders.top_down_fpn import TopDownFPNDecoder
