"""Implement Mask2Former's pixel decoder: a deformable transformer encoder and one FPN step."""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.layers import MultiScaleDeformableAttention, sine_positions
from hiera_seg.modeling.pixel_decoders.build import (
    GROUPS,
    PixelDecoder,
    PixelFeatures,
    head_features,
    register_pixel_decoder,
)

Size = tuple[int, int]


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each added and normalised."""

    def __init__(self, dim: int, *, num_heads: int, num_levels: int, dim_feedforward: int):
        super().__init__()
        self.attention = MultiScaleDeformableAttention(
            dim, num_heads=num_heads, num_levels=num_levels
        )
        self.attention_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, dim_feedforward)
        self.contract = nn.Linear(dim_feedforward, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(
        self, x: Tensor, positions: Tensor, reference: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Return new maps for x (B, S, dim), the maps of all levels row by row.

        `positions` (S, dim) are added to the queries, not to the values; `reference` (S, 2) has the
        centres (x, y) in [0, 1], and `sizes` the (height, width) of each level.
        """
        x = self.attention_norm(x + self.attention(x + positions, reference, x, sizes))
        return self.feedforward_norm(x + self.contract(F.relu(self.expand(x))))


@register_pixel_decoder("ms_deform_attn")
class MSDeformAttnDecoder(PixelDecoder):
    """Deformable attention over all features but the finest, which is fused by an FPN step.

    Source: Cheng et al., Mask2Former, CVPR 2022.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        conv_dims: int,
        num_layers: int,
        num_heads: int,
        dim_feedforward: int,
        norm: str = "GN",
    ):
        """
        Args:
            input_shape: shapes of the features to read, two or more.
            conv_dims: channels of the encoder and of all results, a multiple of 32.
            num_layers: number of encoder layers.
            num_heads: number of heads of their attention.
            dim_feedforward: channels inside their feed-forward networks.
            norm: norm of the convolutions at the finest feature, as named in Detectron2.
        """
        super().__init__(input_shape, conv_dims)
        *coarse, finest = self.multi_scale_channels
        self.multi_scale_channels = [conv_dims] * len(coarse)
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, conv_dims, 1), nn.GroupNorm(GROUPS, conv_dims))
            for channels in coarse
        )
        for projection in self.input_projections:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        self.level_embedding = nn.Parameter(torch.randn(len(coarse), conv_dims))
        self.layers = nn.ModuleList(
            EncoderLayer(
                conv_dims,
                num_heads=num_heads,
                num_levels=len(coarse),
                dim_feedforward=dim_feedforward,
            )
            for _ in range(num_layers)
        )
        self.lateral = Conv2d(finest, conv_dims, 1, bias=not norm, norm=get_norm(norm, conv_dims))
        self.smooth = Conv2d(
            conv_dims,
            conv_dims,
            3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, conv_dims),
            activation=F.relu,
        )
        self.mask_features = Conv2d(conv_dims, conv_dims, 1)
        for conv in (self.lateral, self.smooth, self.mask_features):
            weight_init.c2_xavier_fill(conv)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys, shapes = head_features(cfg, input_shape)
        mask_former = cfg.MODEL.HIERA_SEG.MASK_FORMER
        return {
            "input_shape": shapes,
            "conv_dims": keys.CONVS_DIM,
            "num_layers": mask_former.ENCODER_LAYERS,
            "num_heads": mask_former.NUM_HEADS,
            "dim_feedforward": mask_former.ENCODER_DIM_FEEDFORWARD,
            "norm": keys.NORM,
        }

    def forward_features(self, features: dict[str, Tensor]) -> PixelFeatures:
        """Decode backbone features: (B, C, h, w) float by name, all of ``in_features``.

        The multi-scale features are the encoder's maps.
        """
        finest, *coarse = self.in_features
        maps = [
            projection(features[name])
            for name, projection in zip(reversed(coarse), self.input_projections, strict=True)
        ]
        maps = self._encode(maps)
        lateral = self.lateral(features[finest])
        above = F.interpolate(
            maps[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False
        )
        return PixelFeatures(self.mask_features(self.smooth(lateral + above)), maps[0], maps)

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
        device = maps[0].device
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        positions = torch.cat(
            [
                sine_positions(height, width, self.out_channels, device=device).to(embedding.dtype)
                + embedding
                for (height, width), embedding in zip(sizes, self.level_embedding, strict=True)
            ]
        )
        reference = torch.cat([_centres(height, width, device) for height, width in sizes])
        for layer in self.layers:
            x = layer(x, positions, reference, sizes)
        levels = x.split([height * width for height, width in sizes], 1)
        return [
            level.transpose(1, 2).unflatten(2, size)
            for level, size in zip(levels, sizes, strict=True)
        ]


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    """Return the (x, y) of the centres of pixels in [0, 1], (height * width, 2)."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.cartesian_prod(y, x).flip(1)
