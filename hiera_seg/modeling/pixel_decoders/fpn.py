"""Wrap the semantic branch of Panoptic FPN (Kirillov et al., CVPR 2019) as a pixel decoder."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.modeling.pixel_decoders.build import (
    PixelDecoder,
    head_features,
    register_pixel_decoder,
)


@register_pixel_decoder("fpn")
class FPNDecoder(PixelDecoder):
    """Bring each feature to one stride by 3x3 convolutions and upsampling, and sum the results.

    The layers are those of Detectron2's ``SemSegFPNHead``. If the size of an image is not a
    multiple of the coarsest stride, upsampled maps are a few pixels too large; they are resized
    before the sum.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        conv_dims: int,
        common_stride: int,
        norm: str,
    ):
        """
        Args:
            input_shape: shapes of the features to read.
            conv_dims: channels of all convolutions, and of the result.
            common_stride: stride of the result; at most that of the finest feature.
            norm: norm of the convolutions, as named in Detectron2.
        """
        super().__init__(input_shape, conv_dims)
        self.stride = common_stride
        # Not the DictConfig of a LazyConfig, which @configurable would read as a config.
        self.head = SemSegFPNHead(
            dict(input_shape),
            num_classes=1,
            conv_dims=conv_dims,
            common_stride=common_stride,
            norm=norm,
        )
        self.head.predictor = nn.Identity()  # SemSegFPNHead requires a predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys, shapes = head_features(cfg, input_shape, finer=True)
        return {
            "input_shape": shapes,
            "conv_dims": keys.CONVS_DIM,
            "common_stride": keys.COMMON_STRIDE,
            "norm": keys.NORM,
        }

    def decode(self, features: dict[str, Tensor]) -> Tensor:
        total = None
        for name, layers in zip(self.in_features, self.head.scale_heads, strict=True):
            x = layers(features[name])
            if total is None:
                total = x
                continue
            # Also if the sizes agree, because a comparison would fix the sizes of an exported model
            x = F.interpolate(x, total.shape[-2:], mode="bilinear", align_corners=False)
            total = total + x
        return total
