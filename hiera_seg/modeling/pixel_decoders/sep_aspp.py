"""Implement the pixel decoder of HSSN's public release: separable ASPP with a wide bottleneck."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.modeling.pixel_decoders.build import (
    PixelDecoder,
    head_features,
    register_pixel_decoder,
)
from hiera_seg.modeling.pixel_decoders.convolutions import conv_norm_relu, separable_conv


@register_pixel_decoder("sep_aspp")
class SeparableASPPDecoder(PixelDecoder):
    """A variant of DeepLabV3+ that differs from Detectron2's.

    The coarse feature goes through image pooling (with norm), a 1x1 convolution and separable
    dilated 3x3 convolutions; a 3x3 convolution joins these branches. The result is upsampled,
    concatenated with the projected fine feature and fused by two separable 3x3 convolutions.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        project_channels: int,
        aspp_channels: int,
        aspp_dilations: Sequence[int],
        channels: int,
        dropout: float,
        norm: str,
    ):
        """
        Args:
            input_shape: shapes of the two features to read.
            project_channels: channels to which the finer feature is projected.
            aspp_channels: channels of each branch of ASPP and of the convolution that joins them.
            aspp_dilations: dilations of the separable 3x3 convolutions.
            channels: channels of the result.
            dropout: share of the result's channels to drop in training.
            norm: norm of all convolutions, as named in Detectron2.
        """
        super().__init__(input_shape, channels)
        if len(input_shape) != 2:
            raise ValueError(f"IN_FEATURES is {self.in_features}; name a fine and a coarse one")
        coarse, fine = self.multi_scale_channels
        self.pool = conv_norm_relu(coarse, aspp_channels, 1, norm)
        self.aspp = nn.ModuleList([conv_norm_relu(coarse, aspp_channels, 1, norm)])
        for dilation in aspp_dilations:
            self.aspp.append(separable_conv(coarse, aspp_channels, norm, dilation))
        self.join = conv_norm_relu(
            (2 + len(aspp_dilations)) * aspp_channels, aspp_channels, 3, norm
        )
        self.project = conv_norm_relu(fine, project_channels, 1, norm)
        self.fuse = nn.Sequential(
            separable_conv(aspp_channels + project_channels, channels, norm),
            separable_conv(channels, channels, norm),
        )
        self.dropout = nn.Dropout2d(dropout)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys, shapes = head_features(cfg, input_shape)
        (project_channels,) = keys.PROJECT_CHANNELS
        return {
            "input_shape": shapes,
            "project_channels": project_channels,
            "aspp_channels": keys.ASPP_CHANNELS,
            "aspp_dilations": keys.ASPP_DILATIONS,
            "channels": keys.CONVS_DIM,
            "dropout": keys.ASPP_DROPOUT,
            "norm": keys.NORM,
        }

    def decode(self, features: dict[str, Tensor]) -> Tensor:
        fine, coarse = (features[name] for name in self.in_features)
        pooled = _pooled(self.pool, coarse).expand(-1, -1, *coarse.shape[-2:])
        x = self.join(torch.cat([pooled, *(branch(coarse) for branch in self.aspp)], dim=1))
        projected = self.project(fine)
        x = F.interpolate(x, projected.shape[-2:], mode="bilinear", align_corners=False)
        x = self.fuse(torch.cat([x, projected], dim=1))
        return self.dropout(x)


def _pooled(conv: Conv2d, feature: Tensor) -> Tensor:
    """Apply a 1x1 convolution with norm and ReLU to the global mean: (B, channels, 1, 1).

    A batch of one image has a single value per channel here, and therefore no batch statistics. It
    is normalised by the running statistics, which allows training with a batch of one.
    """
    mean = feature.mean(dim=(2, 3), keepdim=True)
    alone = type(conv.norm) is nn.BatchNorm2d and conv.training and feature.shape[0] == 1
    if not alone:
        return conv(mean)
    x = F.conv2d(mean, conv.weight)
    norm = conv.norm
    x = F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )
    return F.relu(x)
