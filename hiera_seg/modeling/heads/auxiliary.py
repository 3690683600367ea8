"""Train the backbone with an additional flat head on an earlier feature."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.modeling.features import pick_features
from hiera_seg.modeling.heads.loss import at_label_size


class AuxiliaryHead(nn.Module):
    """A 3x3 convolution with norm and ReLU, dropout, and a 1x1 convolution to the leaves.

    Used in training only. Predicts leaves; pixels labelled with an inner node are ignored, like
    void.
    """

    class_rows = {"predictor": "leaves"}
    training_only = True

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        channels: int,
        num_leaves: int,
        dropout: float,
        norm: str,
        weight: float,
    ):
        """
        Args:
            in_feature: name of the backbone feature to read.
            in_channels: number of channels of that feature.
            channels: channels between the two convolutions.
            num_leaves: number of leaves of the tree.
            dropout: share of channels dropped in training.
            norm: norm after the first convolution, as named in Detectron2; "" for none.
            weight: factor of the loss.
        """
        super().__init__()
        self.in_feature = in_feature
        self.num_leaves = num_leaves
        self.weight = weight
        self.conv = Conv2d(
            in_channels,
            channels,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, channels),
            activation=F.relu,
        )
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = Conv2d(channels, num_leaves, kernel_size=1)
        weight_init.c2_msra_fill(self.conv)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec], *, num_leaves: int
    ) -> dict:
        keys = cfg.MODEL.HIERA_SEG.AUXILIARY
        name = keys.IN_FEATURE
        shape = pick_features(input_shape, [name], "MODEL.HIERA_SEG.AUXILIARY.IN_FEATURE")[name]
        return {
            "in_feature": name,
            "in_channels": shape.channels,
            "channels": keys.CHANNELS,
            "num_leaves": num_leaves,
            "dropout": keys.DROPOUT,
            "norm": keys.NORM,
            "weight": keys.WEIGHT,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Compute leaf logits (B, num_leaves, h, w) from features (B, C, h, w) by name."""
        return self.predictor(self.dropout(self.conv(features[self.in_feature])))

    def losses(self, logits: Tensor, labels: Tensor, normalizer: Tensor) -> dict[str, Tensor]:
        """Compute the weighted cross entropy of leaf logits.

        Args:
            logits: (B, num_leaves, h, w) float.
            labels: (B, H, W) int64 node ids or the void value.
            normalizer: 0-d, the number of pixels to average over; 0 counts as 1.

        Returns:
            {"loss_auxiliary": scalar}; 0 with a gradient path if no label is a leaf.
        """
        loss = leaf_cross_entropy(logits, labels, self.num_leaves, normalizer)
        return {"loss_auxiliary": self.weight * loss}


def leaf_cross_entropy(
    logits: Tensor, labels: Tensor, num_leaves: int, normalizer: Tensor
) -> Tensor:
    """Compute the cross entropy of upsampled leaf logits over the pixels labelled with a leaf.

    Arguments and result are those of :meth:`AuxiliaryHead.losses`, without its weight.
    """
    logits = at_label_size(logits, labels)
    is_leaf = (labels >= 0) & (labels < num_leaves)
    targets = labels.where(is_leaf, -100)
    total = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    return total / normalizer.where(normalizer > 0, 1.0)
