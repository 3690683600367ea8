"""Wrap Detectron2's DeepLabV3+ decoder (Chen et al., ECCV 2018) as a pixel decoder."""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor

from hiera_seg.errors import ConfigError
from hiera_seg.modeling.pixel_decoders.build import (
    PixelDecoder,
    head_features,
    register_pixel_decoder,
)


@register_pixel_decoder("deeplab_v3_plus")
class DeepLabV3PlusDecoder(PixelDecoder):
    """ASPP on the coarsest feature, then upsampled and fused with each finer one.

    The image pooling of ASPP is global, so the network does not depend on the size of training
    crops or test images. (In Detectron2 test images must be multiples of the training crop.) The
    pooled branch has no norm, so a batch of one image can be trained.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        project_channels: Sequence[int],
        decoder_channels: Sequence[int],
        aspp_dilations: Sequence[int],
        aspp_dropout: float,
        norm: str,
        use_depthwise_separable_conv: bool = False,
    ):
        """
        Args:
            input_shape: shapes of the features to read.
            project_channels: channels to which each feature but the coarsest is projected,
                finest first.
            decoder_channels: channels after each stage, finest first; the last are ASPP's.
            aspp_dilations: dilations of ASPP's three 3x3 convolutions.
            aspp_dropout: share of ASPP's output to drop in training.
            norm: norm of all convolutions but the pooled one, as named in Detectron2.
            use_depthwise_separable_conv: depthwise separable convolutions in place of 3x3 ones.
        """
        super().__init__(input_shape, decoder_channels[0])
        # Not the DictConfig of a LazyConfig, which @configurable would read as a config.
        self.head = DeepLabV3PlusHead(
            dict(input_shape),
            project_channels=project_channels,
            aspp_dilations=aspp_dilations,
            aspp_dropout=aspp_dropout,
            decoder_channels=decoder_channels,
            common_stride=self.stride,
            norm=norm,
            train_size=None,  # pool globally
            num_classes=None,  # a decoder only
            use_depthwise_separable_conv=use_depthwise_separable_conv,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys, shapes = head_features(cfg, input_shape)
        if len(keys.PROJECT_CHANNELS) != len(shapes) - 1:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS is {list(keys.PROJECT_CHANNELS)}; set "
                f"{len(shapes) - 1} numbers, one for each of MODEL.SEM_SEG_HEAD.IN_FEATURES "
                f"{list(shapes)} but the coarsest"
            )
        return {
            "input_shape": shapes,
            "project_channels": keys.PROJECT_CHANNELS,
            "decoder_channels": [keys.CONVS_DIM] * (len(shapes) - 1) + [keys.ASPP_CHANNELS],
            "aspp_dilations": keys.ASPP_DILATIONS,
            "aspp_dropout": keys.ASPP_DROPOUT,
            "norm": keys.NORM,
            "use_depthwise_separable_conv": keys.USE_DEPTHWISE_SEPARABLE_CONV,
        }

    def decode(self, features: dict[str, Tensor]) -> Tensor:
        return self.head.layers(features)
