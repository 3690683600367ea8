"""Implement Mask2Former's head for class trees, in which queries score nodes."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import NodeOutput
from hiera_seg.losses import QUERY_OPTIONS, QueryLoss
from hiera_seg.modeling.decode import decode_variant
from hiera_seg.modeling.heads.base import (
    HieraHead,
    accept_counts,
    build_sibling_adjustment,
    head_arguments,
)
from hiera_seg.modeling.heads.loss import (
    mean_over_processes,
    sampling_generator,
    training_iteration,
)
from hiera_seg.modeling.options import DecodeOptions
from hiera_seg.modeling.pixel_decoders import PixelFeatures, build_pixel_decoder
from hiera_seg.modeling.transformer_decoder import MaskedAttentionDecoder, QueryPrediction

KEY = "MODEL.HIERA_SEG.MASK_FORMER"

# Number of masks that are upsampled at a time; all at once would be the memory peak in eval.
_CHUNK = 8


@SEM_SEG_HEADS_REGISTRY.register()
class HieraMaskFormerHead(HieraHead):
    """A pixel decoder, a masked-attention transformer decoder, and matched losses.

    Each query predicts a mask and a score per node of the tree; the score of a node at a pixel is
    the sum over queries of node score times mask.
    """

    output_kind = "scores"  # the kind of its NodeOutput
    loss_names = ("class", "mask", "dice")

    @configurable
    def __init__(
        self,
        *,
        hierarchy: Hierarchy,
        pixel_decoder: nn.Module,
        transformer_decoder: MaskedAttentionDecoder,
        loss: QueryLoss,
        ignore_value: int,
        loss_weight: float = 1.0,
        deep_supervision: bool = True,
        seed: int | None = None,
        score_stride: int = 1,
        size_divisibility: int = 0,
        decode_as: str = "auto",
    ):
        """
        Args:
            hierarchy: the class tree.
            pixel_decoder: see ``HIERA_PIXEL_DECODERS``.
            transformer_decoder: predicts the class logits of ``loss.classes``.
            loss: matches and trains the queries.
            ignore_value: the value of void in the targets.
            loss_weight: factor of all losses.
            deep_supervision: also train the predictions of all layers but the last.
            seed: determines, with the trainer's iteration and the rank, the points of the losses;
                None: PyTorch's global random state.
            score_stride: in eval, masks are upsampled to this stride before scores are computed; 1
                is Mask2Former's order. The pixel decoder's stride saves time and memory, but then
                scores instead of masks are upsampled, which blurs thin objects.
            size_divisibility: images are padded to multiples of it, which aligns masks that are
                upsampled to stride 1 with the pixels; 0: no padding.
            decode_as: the decode variant outside of :class:`~hiera_seg.modeling.HieraSegmentor`.
        """
        super().__init__()
        self.hierarchy = hierarchy
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.deep_supervision = deep_supervision
        self.seed = seed
        self.decode_as = decode_as
        self.output_stride = score_stride
        self.size_divisibility = size_divisibility
        self.pixel_decoder = pixel_decoder
        self.transformer_decoder = transformer_decoder
        self.loss = loss
        self.class_rows = {"transformer_decoder.class_predictor": loss.classes.rows}
        loss.classes.reset_predictor(transformer_decoder.class_predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.HIERA_SEG.MASK_FORMER
        arguments = head_arguments(cfg)
        hierarchy, ignore_value = arguments["hierarchy"], arguments["ignore_value"]
        _check_keys(keys)
        hiera = cfg.MODEL.HIERA_SEG
        for key, value, reason in (  # they would be ignored silently
            ("LOSSES", hiera.LOSSES, f"has its own losses, with weights in {KEY}; set it to []"),
            ("AUXILIARY.WEIGHT", hiera.AUXILIARY.WEIGHT, "has no auxiliary head; set it to 0"),
            ("NODE_WEIGHTS.METHOD", hiera.NODE_WEIGHTS.METHOD, 'has no node weights; set it to ""'),
        ):
            if value:
                raise ConfigError(
                    f"MODEL.HIERA_SEG.{key} is {value!r}, but HieraMaskFormerHead {reason}"
                )
        build_sibling_adjustment(cfg, hierarchy, (), kind=cls.output_kind)  # only checks
        pixel_decoder = build_pixel_decoder(
            cfg, input_shape, keys.PIXEL_DECODER, f"{KEY}.PIXEL_DECODER"
        )
        if not 1 <= keys.SCORE_STRIDE <= pixel_decoder.stride:
            raise ConfigError(
                f"{KEY}.SCORE_STRIDE is {keys.SCORE_STRIDE}; choose 1 (exact) to "
                f"{pixel_decoder.stride}, the pixel decoder's stride"
            )
        classes = QUERY_OPTIONS[keys.OPTION](hierarchy)
        transformer_decoder = MaskedAttentionDecoder(
            # The coarsest three, as in Mask2Former: finer maps cost most and only refine masks
            in_channels=pixel_decoder.multi_scale_channels[:3],
            mask_channels=pixel_decoder.out_channels,
            num_classes=classes.num_logits,
            num_queries=keys.NUM_QUERIES,
            hidden_dim=keys.HIDDEN_DIM,
            num_heads=keys.NUM_HEADS,
            dim_feedforward=keys.DIM_FEEDFORWARD,
            num_layers=keys.DECODER_LAYERS,
        )
        loss = QueryLoss(
            classes,
            ignore_label=ignore_value,
            class_weight=keys.CLASS_WEIGHT,
            mask_weight=keys.MASK_WEIGHT,
            dice_weight=keys.DICE_WEIGHT,
            no_object_weight=keys.NO_OBJECT_WEIGHT,
            num_points=keys.NUM_POINTS,
            oversample_ratio=keys.OVERSAMPLE_RATIO,
            importance_ratio=keys.IMPORTANCE_SAMPLE_RATIO,
        )
        variant = DecodeOptions.from_config(cfg).variant
        return arguments | {
            "pixel_decoder": pixel_decoder,
            "transformer_decoder": transformer_decoder,
            "loss": loss,
            "deep_supervision": keys.DEEP_SUPERVISION,
            "score_stride": keys.SCORE_STRIDE,
            "size_divisibility": max(
                input_shape[name].stride for name in pixel_decoder.in_features
            ),
            "decode_as": decode_variant(variant, cls.loss_names, kind=cls.output_kind),
        }

    def node_output(self, features: dict[str, Tensor]) -> NodeOutput:
        """Return the node scores (B, N, h, w) at the score stride, without losses."""
        predictions = self.layers(features, training=False)
        return NodeOutput(self.scores(predictions[-1]), self.output_kind)

    def layers(
        self, features: dict[str, Tensor], *, training: bool | None = None
    ) -> list[QueryPrediction]:
        """Run the network without losses.

        Args:
            features: backbone features (B, C, h, w) float by name.
            training: whether losses read the result; None: in training mode only.

        Returns:
            The prediction of the last layer; in training with deep supervision, of all layers.
        """
        training = self.training if training is None else training
        pixels = PixelFeatures(*self.pixel_decoder.forward_features(features))
        return self.transformer_decoder(
            pixels.multi_scale_features,
            pixels.mask_features,
            all_layers=training and self.deep_supervision,
        )

    def scores(self, prediction: QueryPrediction) -> Tensor:
        """Score every node at every pixel.

        Args:
            prediction: class logits (B, Q, K), mask logits (B, Q, h, w).

        Returns:
            (B, N, H, W) float at the score stride: the sum over queries of node score times
            sigmoid of the mask; not negative, may exceed 1.
        """
        masks, class_logits = prediction.mask_logits, prediction.class_logits
        dtype = torch.promote_types(masks.dtype, torch.float32)
        node_scores = self.loss.classes.node_scores(class_logits.to(dtype))
        factor = self.pixel_decoder.stride / self.output_stride
        size = tuple(round(int(n) * factor) for n in masks.shape[-2:])
        total = None
        for start in range(0, masks.shape[1], _CHUNK):
            chunk = masks[:, start : start + _CHUNK].to(dtype)
            if factor != 1:
                chunk = F.interpolate(chunk, size=size, mode="bilinear", align_corners=False)
            scores = node_scores[:, start : start + _CHUNK]
            with torch.autocast(masks.device.type, enabled=False):  # the sum stays float32
                part = torch.einsum("bqn,bqhw->bnhw", scores, chunk.sigmoid())
            total = part if total is None else total.add_(part)
        return total

    def label_normalizer(self, targets: Tensor) -> Tensor:
        """Return the normalizers of the losses for (B, H, W) targets; see ``QueryLoss``."""
        return self._normalizer(targets, self.loss.segments(targets))

    def _normalizer(self, targets: Tensor, segments: list[Tensor]) -> Tensor:
        num_queries = self.transformer_decoder.query_features.num_embeddings
        return self.loss.normalizers(segments, num_queries).to(targets.device)

    @accept_counts
    def losses(
        self,
        predictions: list[QueryPrediction],
        targets: Tensor,
        normalizer: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute weighted losses.

        Args:
            predictions: as returned by :meth:`layers`.
            targets: (B, H, W) int64 node ids, void = ``ignore_value``.
            normalizer: as returned by :meth:`label_normalizer`; None: that of these targets,
                averaged over all processes.

        Returns:
            {"loss_class", "loss_mask", "loss_dice"} of the last layer and, where there are more,
            {"loss_deep_class", ...}, the sums over the others.
        """
        segments = self.loss.segments(targets)
        if normalizer is None:
            normalizer = mean_over_processes(self._normalizer(targets, segments))
        losses = self.loss(
            [x.class_logits for x in predictions],
            [x.mask_logits for x in predictions],
            targets,
            normalizers=normalizer,
            segments=segments,
            generator=sampling_generator(self.seed, training_iteration(), targets.device),
        )
        result = {f"loss_{name}": self.loss_weight * loss[-1] for name, loss in losses.items()}
        if len(predictions) > 1:
            for name, loss in losses.items():
                result[f"loss_deep_{name}"] = self.loss_weight * loss[:-1].sum()
        return result


def _check_keys(keys: CfgNode) -> None:
    if keys.OPTION not in QUERY_OPTIONS:
        raise ConfigError(f"{KEY}.OPTION is {keys.OPTION!r}; choose one of {tuple(QUERY_OPTIONS)}")
    if keys.HIDDEN_DIM % keys.NUM_HEADS or keys.HIDDEN_DIM % 4:
        raise ConfigError(
            f"{KEY}.HIDDEN_DIM is {keys.HIDDEN_DIM}; it must be a multiple of 4 and of "
            f"{KEY}.NUM_HEADS, {keys.NUM_HEADS}"
        )
