"""The registry of pixel decoders and the key that chooses one."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from fvcore.common.registry import Registry
from torch import nn

from hiera_seg.errors import ConfigError

HIERA_PIXEL_DECODERS = Registry("HIERA_PIXEL_DECODERS")
HIERA_PIXEL_DECODERS.__doc__ = """
Builders ``(cfg, input_shape) -> nn.Module`` of pixel decoders. A pixel decoder has

- ``forward_features(features) -> (mask_features, None, multi_scale_features)``: from a dict of
  backbone features, maps (B, out_channels, H / stride, W / stride) for the pixels, and a list of
  maps from coarse to fine for heads that attend to several scales;
- ``out_channels`` and ``stride`` of the first, ``in_features``, the names of what it reads, and
  ``multi_scale_channels``, one number for each map of the list.

One that draws soft regions of classes on the way may also have

- ``forward_with_regions(features) -> (mask_features, region_logits)``, (B, N or L, h, w), which
  pixel heads train;
- ``region_kind``, "node" or "leaf": what the channels of the region logits stand for.
"""


def build_pixel_decoder(
    cfg: CfgNode,
    input_shape: dict[str, ShapeSpec],
    name: str | None = None,
    key: str = "MODEL.HIERA_SEG.PIXEL_DECODER",
) -> nn.Module:
    """Build a pixel decoder.

    Args:
        cfg: the config that it reads its options from.
        input_shape: what the backbone gives.
        name: in the registry; None: what MODEL.HIERA_SEG.PIXEL_DECODER names.
        key: that holds the name, for the error.

    Raises:
        ConfigError: there is none of that name.
    """
    name = cfg.MODEL.HIERA_SEG.PIXEL_DECODER if name is None else name
    if name not in HIERA_PIXEL_DECODERS:
        known = ", ".join(sorted(known for known, _ in HIERA_PIXEL_DECODERS))
        raise ConfigError(f"{key} is {name!r}; choose one of: {known}")
    return HIERA_PIXEL_DECODERS.get(name)(cfg, input_shape)
