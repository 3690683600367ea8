"""The meta-architecture: images in, losses or label maps of every level out."""

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
from hiera_seg.modeling.decode import OUTPUTS, NodeView, Size, decode_variant, decode_views
from hiera_seg.modeling.norm import fall_back_to_batch_norm


@META_ARCH_REGISTRY.register()
class HieraSegmentor(nn.Module):
    """Hierarchical semantic segmentation behind Detectron2's interface of models."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        decode_as: str = "auto",
        direct: bool = True,
        output: str = "both",
        safe_depth: float | None = None,
        channels_last: bool = False,
        path_scores: bool = False,
        walk: bool = False,
    ):
        """
        Args:
            backbone: a backbone of Detectron2's interface.
            sem_seg_head: a head such as :class:`~hiera_seg.modeling.HieraPixelHead`.
            pixel_mean: per channel, subtracted from images.
            pixel_std: per channel, by which images are divided.
            decode_as: how node scores become leaf scores: "auto" or one of ``DECODE_VARIANTS``.
            direct: also give the best node of each level by its own score.
            output: "both", "scores" (no label maps) or "labels" (no scores).
            safe_depth: stop at an inner node where the best child scores below this; None: never.
            channels_last: lay images, and so all features, out with channels innermost.
            path_scores: also give the score of the label at each level.
            walk: also give what tells the labels at every safe depth.

        Raises:
            ConfigError: an unknown ``output`` or one without the labels that `path_scores` are of,
                a ``decode_as`` that is unknown or does not fit the head, a mean and deviation that
                no image can have, or a backbone that asks for square images.
        """
        super().__init__()
        if output not in OUTPUTS:  # now, not at the first test after a long training
            raise ConfigError(f"MODEL.HIERA_SEG.TEST.OUTPUT is {output!r}; choose one of {OUTPUTS}")
        if path_scores and output == "scores":
            raise ConfigError(
                "MODEL.HIERA_SEG.TEST.CALIBRATION needs label maps, but TEST.OUTPUT beside it is "
                "'scores': set it to 'both' or 'labels'"
            )
        square_size = padding_of(backbone)[1]
        if square_size > 0:
            raise ConfigError(
                f"{type(backbone).__name__} asks for images padded to squares of {square_size} "
                "pixels (padding_constraints), HieraSegmentor takes images of any size: build it "
                "without, as ViTs with square_pad=0"
            )
        if len(pixel_mean) != len(pixel_std) or not all(deviation > 0 for deviation in pixel_std):
            raise ConfigError(
                f"MODEL.PIXEL_MEAN is {list(pixel_mean)} and MODEL.PIXEL_STD {list(pixel_std)}: a "
                "number for each channel is needed in both, in PIXEL_STD above 0"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        try:
            self.variant = decode_variant(
                decode_as, sem_seg_head.loss_names, kind=sem_seg_head.output_kind
            )
        except ConfigError as error:
            raise ConfigError(f"{type(sem_seg_head).__name__}: {error}") from error
        self.direct = direct
        self.output = output
        self.safe_depth = safe_depth
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)  # or each convolution turns its weights around
        self.path_scores = path_scores
        self.walk = walk

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        sem_seg_head = build_sem_seg_head(cfg, backbone.output_shape())
        device_type = torch.device(cfg.MODEL.DEVICE).type
        fall_back_to_batch_norm(nn.ModuleList([backbone, sem_seg_head]), device_type)
        test = cfg.MODEL.HIERA_SEG.TEST
        return {
            "backbone": backbone,
            "sem_seg_head": sem_seg_head,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "decode_as": test.DECODE,
            "direct": test.DIRECT,
            "output": test.OUTPUT,
            "safe_depth": test.SAFE_DEPTH if test.SAFE_DEPTH >= 0 else None,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
            "path_scores": test.CALIBRATION,
            "walk": test.SAFE_DEPTH_CURVE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of this; 0 or 1: not padded."""
        of_head = getattr(self.sem_seg_head, "size_divisibility", 0)
        return math.lcm(padding_of(self.backbone)[0], max(of_head, 1))

    @property
    def hierarchy(self) -> Hierarchy:
        return self.sem_seg_head.hierarchy

    def forward(self, batched_inputs: list[dict[str, Any]], counts: Tensor | None = None) -> Any:
        """Losses in training, predictions in eval.

        Args:
            batched_inputs: one dict an image: "image" (C, H, W) uint8 or float, of any size. In
                training also "sem_seg" (H, W) integer node ids, void = the head's
                ``ignore_value``. In eval optionally "height" and "width" of the output, by
                default the image's own. Nothing is changed in place.
            counts: in training, what the losses divide by, as :meth:`label_counts` gives it: of a
                larger batch that these images are a part of. Default: this batch's own, a mean
                over all processes.

        Returns:
            In training the losses by name. In eval a list of one dict an image:

            - "sem_seg": (L, height, width) float, decoded leaf scores;
            - "hiera_labels": for each level, coarse to fine, (height, width) node ids of the
              decoded path, int64; int32 where `output` is "labels";
            - "hiera_labels_direct": the same, each level by its own scores;
            - "hiera_scores", "hiera_walk", "hiera_walk_limits": where `path_scores` and `walk`
              ask for them, see :func:`~hiera_seg.modeling.decode.decode`.

        Raises:
            ValueError: in training, "sem_seg" is missing or differs in size from its image.
        """
        images = [x["image"] for x in batched_inputs]
        if self.training:
            targets = self._targets(batched_inputs)
            options = {} if counts is None else {"counts": counts}
            batch = ImageList.from_tensors(
                [self._normalize(image) for image in images], self.size_divisibility
            ).tensor
            return self.sem_seg_head(self._features(batch), targets, **options)[1]
        results = []
        for x, view in zip(batched_inputs, self.node_views(images), strict=True):
            height, width = view.image_size
            size = (x.get("height", height), x.get("width", width))
            results.append(self.decode([view], size))
        return results

    def _normalize(self, image: Tensor) -> Tensor:
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def label_counts(self, batched_inputs: list[dict[str, Any]]) -> Tensor | None:
        """What the losses of some images are divided by: numbers of pixels, or of segments.

        The counts of several batches may be added.

        Args:
            batched_inputs: as in training.

        Returns:
            A float vector; None where the head has no ``label_counts``.
        """
        if not hasattr(self.sem_seg_head, "label_counts"):
            return None
        return self.sem_seg_head.label_counts(self._targets(batched_inputs))

    def _targets(self, inputs: list[dict[str, Any]]) -> Tensor:
        labels = [_label_of(x).to(self.device, torch.long) for x in inputs]
        head = self.sem_seg_head
        return ImageList.from_tensors(labels, self.size_divisibility, head.ignore_value).tensor

    def _features(self, batch: Tensor) -> dict[str, Tensor]:
        return self.backbone(batch.contiguous(memory_format=self.memory_format))

    def node_views(self, images: Sequence[Tensor]) -> list[NodeView]:
        """What the head says about each image; in eval.

        Args:
            images: (C, H, W) uint8 or float of any sizes, as in the "image" of inputs.
        """
        images = [self._normalize(image) for image in images]
        views: list = [None] * len(images)
        for members in self._batches(images):
            batch = ImageList.from_tensors([images[i] for i in members], self.size_divisibility)
            output, _ = self.sem_seg_head(self._features(batch.tensor))
            padded_height, padded_width = batch.tensor.shape[-2:]
            for row, i in enumerate(members):
                height, width = (int(n) for n in images[i].shape[-2:])
                views[i] = NodeView(
                    NodeOutput(output.values[row : row + 1], output.kind),
                    padded_size=(int(padded_height), int(padded_width)),
                    image_size=(height, width),
                )
        return views

    def decode(self, views: Sequence[NodeView], output_size: Size, **changes: Any) -> dict:
        """Decode views of one image as this model is set to.

        Args:
            views: of :meth:`node_views`; several are averaged.
            output_size: (height, width) of the result.
            changes: settings to replace: ``variant``, ``direct``, ``output``, ``safe_depth``,
                ``path_scores`` or ``walk``.

        Returns:
            As of :func:`~hiera_seg.modeling.decode.decode`.
        """
        settings = {
            "variant": self.variant,
            "direct": self.direct,
            "output": self.output,
            "safe_depth": self.safe_depth,
            "path_scores": self.path_scores,
            "walk": self.walk,
        }
        settings |= changes
        return decode_views(views, self.hierarchy, output_size=output_size, **settings)

    def _batches(self, images: list[Tensor]) -> list[list[int]]:
        """Indices of images that pad to one size.

        Padding an image to the size of a larger one changes its prediction, most of all through
        global pooling. Only images that no batch pads further are put together, so that a
        prediction does not depend on what else is in the batch.
        """
        if len(images) == 1:
            return [[0]]
        step = max(self.size_divisibility, 1)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            size = tuple(-(-int(n) // step) for n in image.shape[-2:])
            by_size.setdefault(size, []).append(i)
        return list(by_size.values())


def _label_of(sample: dict[str, Any]) -> Tensor:
    name = sample.get("file_name", "a training image without file_name")
    if "sem_seg" not in sample:
        raise ValueError(
            f'{name}: no "sem_seg" in the input of a model in training; '
            "HieraDatasetMapper(cfg, True) makes it from the label file (or call model.eval())"
        )
    label, image_size = sample["sem_seg"], tuple(sample["image"].shape[-2:])
    if tuple(label.shape) != image_size:
        raise ValueError(
            f'{name}: "sem_seg" is {tuple(label.shape)}, the image {image_size}; '
            "augmentations have to change both alike"
        )
    return label
