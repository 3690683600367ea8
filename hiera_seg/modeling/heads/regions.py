"""Train the soft regions that a pixel decoder such as "ocr" predicts."""

from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import HIERA_LOSSES, HierarchicalLoss
from hiera_seg.modeling.heads.auxiliary import leaf_cross_entropy
from hiera_seg.modeling.heads.loss import at_label_size, build_hierarchical_loss


class RegionLoss(nn.Module):
    """Train region logits: hierarchical losses for nodes, cross entropy for leaves."""

    def __init__(
        self, hierarchy: Hierarchy, *, weight: float, node_loss: HierarchicalLoss | None = None
    ):
        """Regions are of leaves without `node_loss`, terms on logits for regions of nodes."""
        super().__init__()
        self.num_leaves = hierarchy.num_leaves
        self.weight = weight
        self.node_loss = node_loss

    def forward(
        self, logits: Tensor, labels: Tensor, normalizer: Tensor, **sampling: Any
    ) -> dict[str, Tensor]:
        """Compute weighted losses of region logits.

        Args:
            logits: (B, N or L, h, w) float.
            labels: (B, H, W) int64 node ids or the void value.
            normalizer: (1 + num_levels,), as returned by ``valid_pixels``.
            sampling: "iteration" and "generator", as of ``HierarchicalLoss``; for nodes only.

        Returns:
            {"loss_regions": scalar} of leaves, {"loss_regions_<name>": scalar} of nodes.
        """
        if self.node_loss is None:
            loss = leaf_cross_entropy(logits, labels, self.num_leaves, normalizer[-1])
            return {"loss_regions": self.weight * loss}
        logits = at_label_size(logits, labels)
        losses = self.node_loss(logits, labels, valid_count=normalizer, **sampling)
        return {
            name.replace("loss_", "loss_regions_", 1): self.weight * loss
            for name, loss in losses.items()
        }


def build_region_loss(
    cfg: CfgNode, hierarchy: Hierarchy, ignore_label: int, region_kind: str
) -> RegionLoss:
    """Build the loss of regions with weight MODEL.HIERA_SEG.OCR.WEIGHT.

    Regions of nodes are trained by the losses of MODEL.HIERA_SEG.LOSSES that need logits.
    """
    node_loss = None
    if region_kind == "node":
        cfg = cfg.clone()
        cfg.defrost()
        entries = cfg.MODEL.HIERA_SEG.LOSSES
        cfg.MODEL.HIERA_SEG.LOSSES = [
            entry for entry in entries if HIERA_LOSSES.get(entry[0]).needs == "logits"
        ]
        if not cfg.MODEL.HIERA_SEG.LOSSES:
            raise ConfigError(
                f"MODEL.HIERA_SEG.LOSSES is {list(entries)}, but regions of nodes need a loss of "
                "logits; add one, or set MODEL.HIERA_SEG.OCR.REGIONS to 'leaf'"
            )
        node_loss = build_hierarchical_loss(cfg, hierarchy, ignore_label)
    return RegionLoss(hierarchy, weight=cfg.MODEL.HIERA_SEG.OCR.WEIGHT, node_loss=node_loss)
