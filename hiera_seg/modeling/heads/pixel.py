"""Predict one logit per pixel and node of the class tree."""

from typing import NamedTuple

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers import PixelEmbeddings
from hiera_seg.layers.scores import NodeOutput
from hiera_seg.layers.sibling_adjustment import SiblingAdjustment
from hiera_seg.losses import HierarchicalLoss, valid_pixels
from hiera_seg.modeling.decode import decode_variant
from hiera_seg.modeling.heads.auxiliary import AuxiliaryHead
from hiera_seg.modeling.heads.base import (
    HieraHead,
    accept_counts,
    build_sibling_adjustment,
    head_arguments,
)
from hiera_seg.modeling.heads.embedding import EmbeddingHead
from hiera_seg.modeling.heads.loss import (
    at_label_size,
    build_hierarchical_loss,
    mean_over_processes,
    sampling_generator,
    training_iteration,
)
from hiera_seg.modeling.heads.regions import RegionLoss, build_region_loss
from hiera_seg.modeling.options import DecodeOptions
from hiera_seg.modeling.pixel_decoders import PixelFeatures, build_pixel_decoder


class PixelOutput(NamedTuple):
    """The output of the layers of a :class:`HieraPixelHead`.

    Attributes:
        logits: (B, N, H / stride, W / stride), one per node.
        embeddings: (B, D, h, w) at the stride of their feature, or PixelEmbeddings; None in eval or
            without the head.
        auxiliary: (B, L, h, w) leaf logits; None in eval or without the head.
        regions: (B, N or L, h, w) logits of the pixel decoder's soft regions; None in eval or
            without a region loss.
    """

    logits: Tensor
    embeddings: Tensor | PixelEmbeddings | None
    auxiliary: Tensor | None
    regions: Tensor | None = None


@SEM_SEG_HEADS_REGISTRY.register()
class HieraPixelHead(HieraHead):
    """A pixel decoder and a 1x1 convolution to the nodes, trained by hierarchical losses."""

    output_kind = "logits"  # the kind of its NodeOutput
    class_rows = {"predictor": "nodes"}  # layers with one row per node, for checkpoints

    @configurable
    def __init__(
        self,
        *,
        hierarchy: Hierarchy,
        pixel_decoder: nn.Module,
        loss: HierarchicalLoss,
        ignore_value: int,
        loss_weight: float = 1.0,
        seed: int | None = None,
        embedding_head: EmbeddingHead | None = None,
        auxiliary_head: AuxiliaryHead | None = None,
        region_loss: RegionLoss | None = None,
        sibling_adjustment: SiblingAdjustment | None = None,
        decode_as: str = "auto",
    ):
        """
        Args:
            hierarchy: the class tree.
            pixel_decoder: see ``HIERA_PIXEL_DECODERS``.
            loss: the weighted sum of losses to train with.
            ignore_value: the value of void in the targets.
            loss_weight: factor of all losses.
            seed: determines, with the trainer's iteration and the rank, which pixels losses
                sample; None: PyTorch's global random state.
            embedding_head: required if a term of ``loss`` needs embeddings.
            auxiliary_head: a flat head used in training only.
            region_loss: for a pixel decoder with ``forward_with_regions``.
            sibling_adjustment: applied to the logits in eval.
            decode_as: the decode variant outside of :class:`~hiera_seg.modeling.HieraSegmentor`.

        Raises:
            ValueError: ``loss`` needs embeddings, but ``embedding_head`` is None.
        """
        super().__init__()
        if "embeddings" in loss.needs and embedding_head is None:
            raise ValueError(
                f"losses {', '.join(loss.names)} need embeddings; pass an embedding_head to "
                "HieraPixelHead"
            )
        self.hierarchy = hierarchy
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.seed = seed
        self.loss_names = loss.trained
        self.decode_as = decode_as
        self.output_stride = pixel_decoder.stride
        self.pixel_decoder = pixel_decoder
        self.loss = loss
        self.embedding_head = embedding_head
        self.auxiliary_head = auxiliary_head
        self.region_loss = region_loss
        self.sibling_adjustment = sibling_adjustment
        self.predictor = Conv2d(pixel_decoder.out_channels, hierarchy.num_nodes, kernel_size=1)
        # As in Detectron2's DeepLab heads: all scores start near 1/2, with any loss
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        arguments = head_arguments(cfg)
        hierarchy, ignore_value = arguments["hierarchy"], arguments["ignore_value"]
        loss = build_hierarchical_loss(cfg, hierarchy, ignore_value)
        embedding_head = auxiliary_head = None
        if "embeddings" in loss.needs:  # DDP fails on an unused head
            embedding_head = EmbeddingHead(cfg, input_shape)
        if cfg.MODEL.HIERA_SEG.AUXILIARY.WEIGHT > 0:
            auxiliary_head = AuxiliaryHead(cfg, input_shape, num_leaves=hierarchy.num_leaves)
        pixel_decoder = build_pixel_decoder(cfg, input_shape)
        region_loss = None
        if cfg.MODEL.HIERA_SEG.OCR.WEIGHT > 0 and hasattr(pixel_decoder, "forward_with_regions"):
            region_loss = build_region_loss(cfg, hierarchy, ignore_value, pixel_decoder.region_kind)
        variant = DecodeOptions.from_config(cfg).variant
        return arguments | {
            "pixel_decoder": pixel_decoder,
            "loss": loss,
            "embedding_head": embedding_head,
            "auxiliary_head": auxiliary_head,
            "region_loss": region_loss,
            "sibling_adjustment": build_sibling_adjustment(cfg, hierarchy, loss.trained),
            "decode_as": decode_variant(variant, loss.trained, kind=cls.output_kind),
        }

    def node_output(self, features: dict[str, Tensor]) -> NodeOutput:
        """Return the node logits (B, N, h, w) at the pixel decoder's stride, without losses."""
        logits = self.layers(features, training=False).logits
        if self.sibling_adjustment is not None:
            logits = self.sibling_adjustment(logits)
        return NodeOutput(logits, self.output_kind)

    def layers(self, features: dict[str, Tensor], *, training: bool | None = None) -> PixelOutput:
        """Run the network without losses.

        Args:
            features: backbone features (B, C, h, w) float by name.
            training: whether to compute what only losses read; None: in training mode only.
        """
        training = self.training if training is None else training
        embeddings = auxiliary = regions = None
        if training and self.region_loss is not None:
            mask_features, regions = self.pixel_decoder.forward_with_regions(features)
        else:
            mask_features = PixelFeatures(
                *self.pixel_decoder.forward_features(features)
            ).mask_features
        if training and self.embedding_head is not None:
            embeddings = self.embedding_head(features)
        if training and self.auxiliary_head is not None:
            auxiliary = self.auxiliary_head(features)
        return PixelOutput(self.predictor(mask_features), embeddings, auxiliary, regions)

    def label_normalizer(self, targets: Tensor) -> Tensor:
        """Return the normalizer of the losses for (B, H, W) targets: see ``valid_pixels``."""
        return valid_pixels(targets, self.hierarchy, self.ignore_value)

    @accept_counts
    def losses(
        self, output: PixelOutput, targets: Tensor, normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute weighted losses.

        Args:
            output: as returned by :meth:`layers` in training.
            targets: (B, H, W) int64 node ids, void = ``ignore_value``.
            normalizer: as returned by :meth:`label_normalizer`; None: that of these targets,
                averaged over all processes.

        Returns:
            {"loss_<name>": scalar}, float32 (float64 for float64 logits).
        """
        if normalizer is None:
            normalizer = mean_over_processes(self.label_normalizer(targets))
        logits = at_label_size(output.logits, targets)
        iteration = training_iteration()
        sampling = {
            "iteration": iteration,
            "generator": sampling_generator(self.seed, iteration),
        }
        losses = self.loss(logits, targets, output.embeddings, valid_count=normalizer, **sampling)
        if output.regions is not None:
            losses |= self.region_loss(output.regions, targets, normalizer, **sampling)
        if output.auxiliary is not None:
            losses |= self.auxiliary_head.losses(output.auxiliary, targets, normalizer[-1])
        return {name: self.loss_weight * loss for name, loss in losses.items()}
