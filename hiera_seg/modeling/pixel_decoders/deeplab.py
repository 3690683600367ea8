"""Wrap Detectron2's DeepLabV3+ decoder (Chen et al., ECCV 2018) as a pixel decoder."""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor, nn

from hiera_seg.errors import ConfigError
from hiera_seg.modeling.features import pick_features
from hiera_seg.modeling.pixel_decoders.build import (
    HIERA_PIXEL_DECODERS,
    PixelFeatures,
    check_common_stride,
    check_group_norm,
)


class DeepLabV3PlusDecoder(nn.Module):
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
        super().__init__()
        # dict(): a LazyConfig passes a DictConfig, which @configurable takes for a config.
        self.head = DeepLabV3PlusHead(
            dict(input_shape),
            project_channels=project_channels,
            aspp_dilations=aspp_dilations,
            aspp_dropout=aspp_dropout,
            decoder_channels=decoder_channels,
            common_stride=min(shape.stride for shape in input_shape.values()),
            norm=norm,
            train_size=None,  # pool globally
            num_classes=None,  # a decoder only
            use_depthwise_separable_conv=use_depthwise_separable_conv,
        )
        self.in_features = self.head.in_features  # finest first
        self.out_channels = decoder_channels[0]
        self.stride = self.head.common_stride
        self.multi_scale_channels = [input_shape[k].channels for k in reversed(self.in_features)]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        shapes = pick_features(input_shape, keys.IN_FEATURES, "MODEL.SEM_SEG_HEAD.IN_FEATURES")
        _check_deeplab_keys(keys, shapes)
        return {
            "input_shape": shapes,
            "project_channels": keys.PROJECT_CHANNELS,
            "decoder_channels": [keys.CONVS_DIM] * (len(shapes) - 1) + [keys.ASPP_CHANNELS],
            "aspp_dilations": keys.ASPP_DILATIONS,
            "aspp_dropout": keys.ASPP_DROPOUT,
            "norm": keys.NORM,
            "use_depthwise_separable_conv": keys.USE_DEPTHWISE_SEPARABLE_CONV,
        }

    def forward_features(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode backbone features: (B, C, h, w) float by name, all of ``in_features``.

        The multi-scale features are the features read.
        """
        multi_scale = [features[name] for name in reversed(self.in_features)]
        return PixelFeatures(self.head.layers(features), multi_scale[0], multi_scale)


def _check_deeplab_keys(keys: CfgNode, shapes: dict[str, ShapeSpec]) -> None:
    if len(keys.PROJECT_CHANNELS) != len(shapes) - 1:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS is {list(keys.PROJECT_CHANNELS)}; set "
            f"{len(shapes) - 1} numbers, one for each of MODEL.SEM_SEG_HEAD.IN_FEATURES "
            f"{list(shapes)} but the coarsest"
        )
    if len(keys.ASPP_DILATIONS) != 3:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.ASPP_DILATIONS is {list(keys.ASPP_DILATIONS)}; set three"
        )
    check_common_stride(keys, shapes)
    projected = {f"PROJECT_CHANNELS[{i}]": n for i, n in enumerate(keys.PROJECT_CHANNELS)}
    names = ("CONVS_DIM", "ASPP_CHANNELS")
    check_group_norm(keys, {**projected, **{name: keys[name] for name in names}})


@HIERA_PIXEL_DECODERS.register()
def deeplab_v3_plus(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> DeepLabV3PlusDecoder:
    """Build a :class:`DeepLabV3PlusDecoder` from the keys of MODEL.SEM_SEG_HEAD."""
    return DeepLabV3PlusDecoder(cfg, input_shape)
