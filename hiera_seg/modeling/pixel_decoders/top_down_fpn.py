"""Decode features by a plain FPN (Lin et al., CVPR 2017), for query heads."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.modeling.pixel_decoders.build import (
    PixelDecoder,
    PixelFeatures,
    head_features,
    register_pixel_decoder,
)
from hiera_seg.modeling.pixel_decoders.convolutions import conv_norm_relu


@register_pixel_decoder("top_down_fpn")
class TopDownFPNDecoder(PixelDecoder):
    """Upsample coarse maps, add them to finer ones and smooth each sum.

    Each multi-scale map contains the information of all coarser ones, unlike those of
    :class:`~hiera_seg.modeling.FPNDecoder`, which are the backbone's own features.
    """

    @configurable
    def __init__(self, *, input_shape: dict[str, ShapeSpec], conv_dims: int, norm: str):
        """
        Args:
            input_shape: shapes of the features to read, two or more.
            conv_dims: channels of all convolutions and results.
            norm: norm of the convolutions, as named in Detectron2; "" for none.
        """
        super().__init__(input_shape, conv_dims)
        self.multi_scale_channels = [conv_dims] * (len(input_shape) - 1)

        xavier = {"fill": weight_init.c2_xavier_fill}
        self.laterals, self.smooths = nn.ModuleDict(), nn.ModuleDict()
        for name in self.in_features:
            channels = input_shape[name].channels
            self.laterals[name] = conv_norm_relu(channels, conv_dims, 1, norm, relu=False, **xavier)
        for name in self.in_features:
            self.smooths[name] = conv_norm_relu(conv_dims, conv_dims, 3, norm, **xavier)
        self.mask_features = Conv2d(conv_dims, conv_dims, 3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys, shapes = head_features(cfg, input_shape)
        return {"input_shape": shapes, "conv_dims": keys.CONVS_DIM, "norm": keys.NORM}

    def forward_features(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode backbone features: (B, C, h, w) float by name, all of ``in_features``.

        The multi-scale features are the smoothed maps of all features but the finest.
        """
        maps: list[Tensor] = []
        for name in reversed(self.in_features):
            x = self.laterals[name](features[name])
            if maps:
                x = x + F.interpolate(
                    maps[-1], size=x.shape[-2:], mode="bilinear", align_corners=False
                )
            maps.append(self.smooths[name](x))
        return PixelFeatures(self.mask_features(maps[-1]), maps[0], maps[:-1])
