"""Project a backbone feature to the embeddings of the triplet loss."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.layers import PixelEmbeddings
from hiera_seg.modeling.features import pick_features

PIXELWISE_NORMS = ("", "FrozenBN", "LN")  # others, such as group norm, depend on all pixels


class EmbeddingHead(nn.Module):
    """A 1x1 convolution with norm and ReLU, then a 1x1 convolution to the embedding.

    Used in training only. The loss normalises embeddings to length 1, so their scale is arbitrary.
    The last convolution starts at unit scale, because the gradient of the normalisation grows as
    the embedding shrinks.
    """

    training_only = True

    @configurable
    def __init__(
        self, *, in_feature: str, in_channels: int, hidden_channels: int, dim: int, norm: str
    ):
        """
        Args:
            in_feature: name of the backbone feature to read.
            in_channels: number of channels of that feature.
            hidden_channels: channels between the two convolutions.
            dim: length of an embedding.
            norm: norm after the first convolution, as named in Detectron2; "" for none.
        """
        super().__init__()
        self.in_feature = in_feature
        self.pixelwise = norm in PIXELWISE_NORMS
        self.hidden = Conv2d(
            in_channels,
            hidden_channels,
            kernel_size=1,
            bias=not norm,
            norm=get_norm(norm, hidden_channels),
            activation=F.relu,
        )
        self.project = Conv2d(hidden_channels, dim, kernel_size=1)
        weight_init.c2_msra_fill(self.hidden)
        weight_init.c2_xavier_fill(self.project)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        keys = cfg.MODEL.HIERA_SEG.EMBEDDING
        name = keys.IN_FEATURE
        shape = pick_features(input_shape, [name], "MODEL.HIERA_SEG.EMBEDDING.IN_FEATURE")[name]
        return {
            "in_feature": name,
            "in_channels": shape.channels,
            "hidden_channels": keys.HIDDEN_CHANNELS or shape.channels,
            "dim": keys.DIM,
            "norm": keys.NORM,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor | PixelEmbeddings:
        """Compute embeddings (B, dim, h, w) of any length from features (B, C, h, w) by name.

        If no norm depends on other pixels, they are computed only at the pixels that a loss reads.
        """
        feature = features[self.in_feature]
        if self.pixelwise:
            return PixelEmbeddings(feature, nn.Sequential(self.hidden, self.project))
        return self.project(self.hidden(feature))
