"""Register pixel decoders and build the one that a config names."""

from collections.abc import Callable
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from fvcore.common.registry import Registry
from torch import Tensor, nn

from hiera_seg.errors import ConfigError
from hiera_seg.modeling.features import pick_features

GROUPS = 32  # of Detectron2's "GN"

HIERA_PIXEL_DECODERS = Registry("HIERA_PIXEL_DECODERS")
HIERA_PIXEL_DECODERS.__doc__ = """
Builders ``(cfg, input_shape) -> nn.Module`` of pixel decoders. A pixel decoder has

- ``forward_features(features) -> PixelFeatures`` (or the triple of Mask2Former's decoders, which is
  the same): decodes a dict of backbone features;
- ``in_features``: the names of the features that it reads;
- ``out_channels`` and ``stride`` of its mask features, and ``multi_scale_channels``, the channels
  of each multi-scale feature.

A decoder that predicts soft regions of classes may also have

- ``forward_with_regions(features) -> (mask_features, region_logits)``, with region logits
  (B, N or L, h, w), which pixel heads train;
- ``region_kind``, "node" or "leaf": what the channels of the region logits represent.
"""


def register_pixel_decoder(name: str) -> Callable[[type], type]:
    """Decorator: register a class that is built from ``(cfg, input_shape)`` under a name."""

    def add(decoder: type) -> type:
        HIERA_PIXEL_DECODERS._do_register(name, decoder)
        return decoder

    return add


class PixelFeatures(NamedTuple):
    """The output of a pixel decoder, in the order of Mask2Former's ``forward_features``.

    Attributes:
        mask_features: (B, out_channels, H / stride, W / stride), one vector per pixel.
        encoder_features: (B, C, h, w), the coarsest of the multi-scale features, which MaskFormer's
            transformer decoder reads; the heads of this package do not. Mask2Former's FPN decoder
            returns None here.
        multi_scale_features: maps (B, C, h, w) from coarse to fine, for heads that attend to
            several scales.
    """

    mask_features: Tensor
    encoder_features: Tensor | None
    multi_scale_features: list[Tensor]


class PixelDecoder(nn.Module):
    """Base class of decoders whose multi-scale features are those of the backbone.

    A subclass defines ``decode(features)``, which returns the mask features.
    """

    def __init__(self, input_shape: dict[str, ShapeSpec], out_channels: int):
        """
        Args:
            input_shape: shapes of the features to read.
            out_channels: channels of the mask features; their stride is that of the finest feature.
        """
        super().__init__()
        shapes = dict(sorted(input_shape.items(), key=lambda item: item[1].stride))
        self.in_features = list(shapes)  # finest first
        self.out_channels = out_channels
        self.stride = min(shape.stride for shape in shapes.values())
        self.multi_scale_channels = [shape.channels for shape in reversed(shapes.values())]

    def forward_features(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode backbone features: (B, C, h, w) float by name, all of ``in_features``."""
        multi_scale = [features[name] for name in reversed(self.in_features)]
        return PixelFeatures(self.decode(features), multi_scale[0], multi_scale)


def build_pixel_decoder(
    cfg: CfgNode,
    input_shape: dict[str, ShapeSpec],
    name: str | None = None,
    key: str = "MODEL.HIERA_SEG.PIXEL_DECODER",
) -> nn.Module:
    """Build a pixel decoder.

    Args:
        cfg: the whole config.
        input_shape: shapes of the backbone's features.
        name: name in the registry; None for MODEL.HIERA_SEG.PIXEL_DECODER.
        key: the config key that holds the name, for the error.

    Raises:
        ConfigError: the registry has no such name, or the decoder cannot be built with these keys.
    """
    name = cfg.MODEL.HIERA_SEG.PIXEL_DECODER if name is None else name
    if name not in HIERA_PIXEL_DECODERS:
        known = ", ".join(sorted(known for known, _ in HIERA_PIXEL_DECODERS))
        raise ConfigError(f"{key} is {name!r}; choose one of: {known}")
    try:
        return HIERA_PIXEL_DECODERS.get(name)(cfg, input_shape)
    except ConfigError:
        raise
    except (ValueError, AssertionError) as error:
        hint = f" (GN has {GROUPS}; BN and SyncBN have none)" if "num_groups" in str(error) else ""
        raise ConfigError(
            f"{key} is {name!r}, which does not accept the values of MODEL.SEM_SEG_HEAD: "
            f"{error}{hint}; change them"
        ) from error


def head_features(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], *, finer: bool = False
) -> tuple[CfgNode, dict[str, ShapeSpec]]:
    """Return MODEL.SEM_SEG_HEAD and the shapes of its IN_FEATURES, finest first.

    Raises:
        ConfigError: a feature that the backbone does not have, or a COMMON_STRIDE that is not the
            stride of the finest feature (with `finer`: that is larger).
    """
    keys = cfg.MODEL.SEM_SEG_HEAD
    shapes = pick_features(input_shape, keys.IN_FEATURES, "MODEL.SEM_SEG_HEAD.IN_FEATURES")
    stride = min(shape.stride for shape in shapes.values())
    if keys.COMMON_STRIDE > stride or (keys.COMMON_STRIDE < stride and not finer):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {keys.COMMON_STRIDE}; set it to the stride of "
            f"the finest of the features {list(shapes)}, which is {stride}{' or less' * finer}"
        )
    return keys, shapes
