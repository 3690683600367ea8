"""Build the convolutions of pixel decoders."""

from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d, get_norm
from torch import nn
from torch.nn import functional as F


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str,
    *,
    relu: bool = True,
    fill: Callable[[nn.Module], None] = weight_init.c2_msra_fill,
) -> Conv2d:
    """Build a convolution that keeps the size, with norm (in Detectron2's names) and ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu if relu else None,
    )
    fill(conv)
    return conv


def separable_conv(
    in_channels: int, out_channels: int, norm: str, dilation: int = 1
) -> DepthwiseSeparableConv2d:
    """Build a 3x3 depthwise and a 1x1 pointwise convolution, each with norm and ReLU."""
    return DepthwiseSeparableConv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=dilation,
        dilation=dilation,
        norm1=norm,
        activation1=F.relu,
        norm2=norm,
        activation2=F.relu,
    )
