"""Implement the meta-architecture, which computes losses or label maps from images."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from hiera_seg.compat import padding_of
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import NodeOutput
from hiera_seg.modeling.decode import NodeView, Size, decode, decode_variant
from hiera_seg.modeling.heads.base import AcceptsLabelCounts, accept_counts
from hiera_seg.modeling.norm import fall_back_to_batch_norm
from hiera_seg.modeling.options import DecodeOptions

HEAD_ATTRIBUTES = ("hierarchy", "ignore_value", "loss_names", "output_kind")


@META_ARCH_REGISTRY.register()
class HieraSegmentor(AcceptsLabelCounts, nn.Module):
    """Segment images into the nodes of a class tree, with Detectron2's interface of models."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        decode_options: DecodeOptions | None = None,
        channels_last: bool = False,
        **deprecated: Any,
    ):
        """
        Args:
            backbone: a backbone with Detectron2's interface.
            sem_seg_head: a :class:`~hiera_seg.modeling.HieraHead`; or a module with its attributes
                ``hierarchy``, ``ignore_value``, ``loss_names`` and ``output_kind``, whose
                ``forward`` returns (None, losses) in training and (NodeOutput, {}) in eval.
            pixel_mean: per channel, subtracted from images.
            pixel_std: per channel, divides images.
            decode_options: how to decode where :meth:`predict` gets no options; None: the defaults.
            channels_last: use the memory format channels_last for images and features.
            deprecated: the decoding options as separate arguments, as in 0.1.

        Raises:
            ConfigError: a head without these attributes, a decode variant that is unknown or does
                not fit the head, `pixel_mean` and `pixel_std` that no image can have, or a backbone
                that requires square images.
        """
        super().__init__()
        if deprecated:
            decode_options = DecodeOptions.from_deprecated(deprecated)
        missing = [name for name in HEAD_ATTRIBUTES if not hasattr(sem_seg_head, name)]
        if missing:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NAME: {type(sem_seg_head).__name__} has no "
                f"{', '.join(missing)}; HieraSegmentor needs a head with "
                f"{', '.join(HEAD_ATTRIBUTES)} and node_output (docs/own_parts.md), such as "
                "HieraPixelHead; a flat head needs MODEL.META_ARCHITECTURE SemanticSegmentor"
            )
        square_size = padding_of(backbone)[1]
        if square_size > 0:
            raise ConfigError(
                f"{type(backbone).__name__} requires images padded to squares of {square_size} "
                "pixels (padding_constraints), but HieraSegmentor takes images of any size; build "
                "the backbone without it (ViTs: square_pad=0)"
            )
        if len(pixel_mean) != len(pixel_std) or not all(deviation > 0 for deviation in pixel_std):
            raise ConfigError(
                f"MODEL.PIXEL_MEAN is {list(pixel_mean)} and MODEL.PIXEL_STD {list(pixel_std)}; "
                "set one number per channel in both, above 0 in PIXEL_STD"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            # Integers, such as [0, 0, 0], would truncate images of floats to them.
            values = torch.tensor(values, dtype=torch.get_default_dtype())
            self.register_buffer(name, values.view(-1, 1, 1), False)
        self.decode_options = decode_options or DecodeOptions()
        self.decode_options = self._resolve(self.decode_options)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)  # else each convolution converts its weights

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        sem_seg_head = build_sem_seg_head(cfg, backbone.output_shape())
        device_type = torch.device(cfg.MODEL.DEVICE).type
        fall_back_to_batch_norm(nn.ModuleList([backbone, sem_seg_head]), device_type)
        return {
            "backbone": backbone,
            "sem_seg_head": sem_seg_head,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "decode_options": DecodeOptions.from_config(cfg),
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def size_divisibility(self) -> int:
        """Padded image sizes are multiples of this number; 0 or 1 for no padding."""
        of_head = getattr(self.sem_seg_head, "size_divisibility", 0)
        return math.lcm(padding_of(self.backbone)[0], max(of_head, 1))

    @property
    def hierarchy(self) -> Hierarchy:
        return self.sem_seg_head.hierarchy

    @accept_counts
    def forward(
        self, batched_inputs: list[dict[str, Any]], normalizer: Tensor | None = None
    ) -> Any:
        """Return losses in training and predictions in eval, as Detectron2's models do.

        Args:
            batched_inputs: one dict per image: in training as for :meth:`losses`; in eval "image"
                and optionally "height" and "width" of the output, by default the image's own.
            normalizer: see :meth:`losses`.

        Returns:
            As :meth:`losses` or :meth:`predict`.

        Raises:
            ValueError: in training, "sem_seg" is missing or differs in size from its image.
        """
        if self.training:
            return self.losses(batched_inputs, normalizer)
        images = [x["image"] for x in batched_inputs]
        sizes = [
            (x.get("height", image.shape[-2]), x.get("width", image.shape[-1]))
            for x, image in zip(batched_inputs, images, strict=True)
        ]
        return self.predict(images, output_sizes=sizes)

    @accept_counts
    def losses(
        self, batched_inputs: list[dict[str, Any]], normalizer: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch, in training or in eval mode.

        Args:
            batched_inputs: one dict per image: "image" (C, H, W) uint8 or float, of any size, and
                "sem_seg" (H, W) integer node ids, void = the head's ``ignore_value``. Nothing is
                changed in place.
            normalizer: that of a larger batch that these images are a part of, as returned by
                :meth:`label_normalizer`. None: that of this batch, averaged over all processes.

        Returns:
            {"loss_<name>": scalar}.

        Raises:
            ValueError: "sem_seg" is missing or differs in size from its image.
        """
        targets = self._targets(batched_inputs)
        images = [self._normalize(x["image"]) for x in batched_inputs]
        batch = ImageList.from_tensors(images, self.size_divisibility).tensor
        features, head = self._features(batch), self.sem_seg_head
        if not head.training:
            return head.losses(head.layers(features, training=True), targets, normalizer)
        return head(features, targets, *(() if normalizer is None else (normalizer,)))[1]

    def predict(
        self,
        images: Sequence[Tensor],
        options: DecodeOptions | None = None,
        *,
        output_sizes: Sequence[Size] | None = None,
    ) -> list[dict[str, Any]]:
        """Segment images, in eval mode.

        Args:
            images: (C, H, W) uint8 or float of any sizes.
            options: how to decode; None: as this model is configured.
            output_sizes: (height, width) of each result; None: those of the images.

        Returns:
            For each image the dict of :func:`~hiera_seg.modeling.decode.decode`.

        Raises:
            RuntimeError: in training mode.
        """
        views = self.node_views(images)
        if output_sizes is None:
            output_sizes = [view.image_size for view in views]
        return [
            self.decode([view], size, options)
            for view, size in zip(views, output_sizes, strict=True)
        ]

    def decode(
        self, views: Sequence[NodeView], output_size: Size, options: DecodeOptions | None = None
    ) -> dict[str, Any]:
        """Decode views of one image.

        Args:
            views: as returned by :meth:`node_views`; the scores of several are averaged.
            output_size: (height, width) of the result.
            options: how to decode; None: as this model is configured.

        Returns:
            As :func:`~hiera_seg.modeling.decode.decode`.
        """
        options = self.decode_options if options is None else self._resolve(options)
        return decode(views, self.hierarchy, options, output_size=output_size)

    def node_views(self, images: Sequence[Tensor]) -> list[NodeView]:
        """Compute the node outputs of each image, in eval mode.

        Args:
            images: (C, H, W) uint8 or float of any sizes.

        Raises:
            RuntimeError: in training mode.
        """
        if self.training:
            raise RuntimeError("HieraSegmentor is in training mode; call eval() before predicting")
        images = [self._normalize(image) for image in images]
        views: list = [None] * len(images)
        for members in self._batches(images):
            batch = ImageList.from_tensors([images[i] for i in members], self.size_divisibility)
            output = self._node_output(self._features(batch.tensor))
            padded_height, padded_width = batch.tensor.shape[-2:]
            for row, i in enumerate(members):
                height, width = (int(n) for n in images[i].shape[-2:])
                views[i] = NodeView(
                    NodeOutput(output.values[row : row + 1], output.kind),
                    padded_size=(int(padded_height), int(padded_width)),
                    image_size=(height, width),
                )
        return views

    def label_normalizer(self, batched_inputs: list[dict[str, Any]]) -> Tensor | None:
        """Return the normalizer of the losses of some images, in pixels or in segments.

        The normalizers of several batches may be added.

        Args:
            batched_inputs: as for :meth:`losses`.

        Returns:
            A float vector; None if the head has no ``label_normalizer``.
        """
        head = self.sem_seg_head  # of 0.1 if it has label_counts
        of_head = getattr(head, "label_normalizer", getattr(head, "label_counts", None))
        return None if of_head is None else of_head(self._targets(batched_inputs))

    def _resolve(self, options: DecodeOptions) -> DecodeOptions:
        """Replace the variant "auto" by this model's, by default the one that its losses train."""
        head, name = self.sem_seg_head, options.variant
        name = self.decode_options.variant if name == "auto" else name
        variant = decode_variant(name, head.loss_names, kind=head.output_kind)
        return dataclasses.replace(options, variant=variant)

    def _normalize(self, image: Tensor) -> Tensor:
        return (image.to(self.pixel_mean) - self.pixel_mean) / self.pixel_std  # float64 of YUV too

    def _targets(self, inputs: list[dict[str, Any]]) -> Tensor:
        labels = [_label_of(x).to(self.device, torch.long) for x in inputs]
        head = self.sem_seg_head
        return ImageList.from_tensors(labels, self.size_divisibility, head.ignore_value).tensor

    def _features(self, batch: Tensor) -> dict[str, Tensor]:
        return self.backbone(batch.contiguous(memory_format=self.memory_format))

    def _node_output(self, features: dict[str, Tensor]) -> NodeOutput:
        head = self.sem_seg_head
        output = head.node_output(features) if hasattr(head, "node_output") else head(features)[0]
        if not isinstance(output, NodeOutput):
            raise TypeError(
                f"{type(head).__name__} returned a {type(output).__name__} in eval; define its "
                "method node_output(features), which returns a NodeOutput"
            )
        return output

    def _batches(self, images: list[Tensor]) -> list[list[int]]:
        """Group the indices of images by padded size.

        Padding an image to the size of a larger one would change its prediction, mostly through
        global pooling. With this grouping, predictions do not depend on the batch.
        """
        if len(images) == 1:
            return [[0]]
        step = max(self.size_divisibility, 1)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            size = tuple(-(-int(n) // step) for n in image.shape[-2:])
            by_size.setdefault(size, []).append(i)
        return list(by_size.values())


def require_segmentor(model: nn.Module, purpose: str) -> HieraSegmentor:
    """Return a model; raise ConfigError, which names the purpose, if it is not a HieraSegmentor."""
    if not isinstance(model, HieraSegmentor):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {purpose} requires a HieraSegmentor, but the model is a "
            f"{type(model).__name__}; change it"
        )
    return model


def _label_of(sample: dict[str, Any]) -> Tensor:
    name = sample.get("file_name", "a training image without file_name")
    if "sem_seg" not in sample:
        raise ValueError(
            f'{name}: no "sem_seg" in the input of a model in training; read it with '
            "HieraDatasetMapper(cfg, True), or call model.eval()"
        )
    label, image_size = sample["sem_seg"], tuple(sample["image"].shape[-2:])
    if tuple(label.shape) != image_size:
        raise ValueError(
            f'{name}: "sem_seg" is {tuple(label.shape)}, but the image {image_size}; '
            "apply the same augmentations to both"
        )
    return label
