"""Decode features by object-contextual representations (Yuan, Chen, Wang, ECCV 2020)."""

import math

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.config import resolve_hierarchy
from hiera_seg.modeling.pixel_decoders.build import (
    PixelDecoder,
    head_features,
    register_pixel_decoder,
)
from hiera_seg.modeling.pixel_decoders.convolutions import conv_norm_relu


@register_pixel_decoder("ocr")
class OCRDecoder(PixelDecoder):
    """Each pixel attends to one soft region per class.

    All features are resized to the finest stride and concatenated. Two convolutions predict a logit
    per pixel and region; the softmax of a region's logits over all pixels weights their mean, one
    vector per region (the paper's equation 2). Each pixel attends to these vectors (equations 3
    and 4), and the result is concatenated with the pixel's own features.

    Regions are all nodes of the class tree ("vehicle" is a context as well as "car" and "bus"), or
    only the leaves, as in the paper.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        num_regions: int,
        region_kind: str,
        channels: int,
        key_channels: int,
        dropout: float,
        norm: str,
    ):
        """
        Args:
            input_shape: shapes of the features to read.
            num_regions: number of nodes or leaves of the tree.
            region_kind: "node" or "leaf": what a region represents; heads train the region logits
                accordingly.
            channels: channels of pixels and regions, and of the result.
            key_channels: channels in which pixels and regions are compared.
            dropout: share of the result's channels to drop in training.
            norm: norm of all convolutions, as named in Detectron2.
        """
        super().__init__(input_shape, channels)
        total = sum(self.multi_scale_channels)
        self.region_kind = region_kind
        self.class_rows = {"region_logits": {"node": "nodes", "leaf": "leaves"}[region_kind]}

        self.region_hidden = conv_norm_relu(total, total, 1, norm)
        self.region_logits = Conv2d(total, num_regions, kernel_size=1)
        nn.init.normal_(self.region_logits.weight, std=0.01)
        nn.init.zeros_(self.region_logits.bias)
        self.pixels = conv_norm_relu(total, channels, 3, norm)
        self.query = nn.Sequential(
            conv_norm_relu(channels, key_channels, 1, norm),
            conv_norm_relu(key_channels, key_channels, 1, norm),
        )
        self.key = nn.Sequential(
            conv_norm_relu(channels, key_channels, 1, norm),
            conv_norm_relu(key_channels, key_channels, 1, norm),
        )
        self.value = conv_norm_relu(channels, key_channels, 1, norm)
        self.gathered = conv_norm_relu(key_channels, channels, 1, norm)
        self.augment = conv_norm_relu(2 * channels, channels, 1, norm)
        self.dropout = nn.Dropout2d(dropout)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.HIERA_SEG.OCR
        head, shapes = head_features(cfg, input_shape)
        hierarchy = resolve_hierarchy(cfg)
        by_node = keys.REGIONS == "node"
        return {
            "input_shape": shapes,
            "num_regions": hierarchy.num_nodes if by_node else hierarchy.num_leaves,
            "region_kind": keys.REGIONS,
            "channels": head.CONVS_DIM,
            "key_channels": keys.KEY_CHANNELS,
            "dropout": keys.DROPOUT,
            "norm": head.NORM,
        }

    def decode(self, features: dict[str, Tensor]) -> Tensor:
        return self.forward_with_regions(features)[0]

    def forward_with_regions(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Decode backbone features and predict soft regions.

        Returns:
            The decoded map (B, out_channels, H / stride, W / stride), and (B, num_regions,
            H / stride, W / stride).
        """
        size = features[self.in_features[0]].shape[-2:]
        maps = [
            F.interpolate(features[name], size, mode="bilinear", align_corners=False)
            for name in self.in_features[1:]
        ]
        x = torch.cat([features[self.in_features[0]], *maps], dim=1)
        logits = self.region_logits(self.region_hidden(x))
        x = self.pixels(x)
        context = self._gather(x, region_vectors(x, logits))
        return self.dropout(self.augment(torch.cat([context, x], dim=1))), logits

    def _gather(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Attend from pixels (B, C, H, W) to regions (B, C, K); returns (B, C, H, W)."""
        regions = regions.unsqueeze(3)
        query, key = self.query(pixels).flatten(2), self.key(regions).flatten(2)
        value = self.value(regions).flatten(2)
        relation = torch.einsum("bcp,bck->bpk", query, key) / math.sqrt(key.shape[1])
        context = torch.einsum("bpk,bck->bcp", _softmax(relation).to(value.dtype), value)
        return self.gathered(context.unflatten(2, pixels.shape[-2:]))


def region_vectors(pixels: Tensor, logits: Tensor) -> Tensor:
    """Return the weighted mean of pixels in each soft region (Yuan et al., equation 2).

    The softmax of logits (B, K, H, W) over the pixels (B, C, H, W) of an image gives the weights of
    the result (B, C, K).
    """
    weights = _softmax(logits.flatten(2)).to(pixels.dtype)
    return torch.einsum("bkp,bcp->bck", weights, pixels.flatten(2))


def _softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension, in float32 or float64, because half is too coarse."""
    return x.softmax(dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
