"""Pixel decoders: from backbone features to one map of features for every pixel."""

from hiera_seg.modeling.pixel_decoders.build import HIERA_PIXEL_DECODERS, build_pixel_decoder
from hiera_seg.modeling.pixel_decoders.deeplab import DeepLabV3PlusDecoder
from hiera_seg.modeling.pixel_decoders.fpn import FPNDecoder

__all__ = [
    "HIERA_PIXEL_DECODERS",
    "DeepLabV3PlusDecoder",
    "FPNDecoder",
    "build_pixel_decoder",
]
