"""A segmentor as one function of tensors: what an exported file computes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.errors import ConfigError
from hiera_seg.layers.scores import NodeOutput, NodeScores, node_scores
from hiera_seg.modeling import HieraPixelHead, HieraSegmentor
from hiera_seg.modeling.paths import cut_path, direct_labels, greedy_path, path_labels


class Outputs(NamedTuple):
    """Which maps a file gives, in this order; the names are those of HieraSegmentor's outputs.

    Attributes:
        sem_seg: (B, L, H, W) float32, leaf scores.
        hiera_labels: (B, levels, H, W) int64, node ids of the decoded path, coarse to fine.
        hiera_labels_direct: the same, the best node of each level by its own score.
    """

    sem_seg: bool
    hiera_labels: bool
    hiera_labels_direct: bool

    @property
    def names(self) -> list[str]:
        return [name for name, wanted in self._asdict().items() if wanted]


class DeployedSegmentor(nn.Module):
    """Images (B, 3, H, W) uint8 to maps of their size: normalised, padded, segmented, decoded.

    Unlike the model, it takes tensors of one size alone, and nothing in it depends on what they
    hold, so that it can be traced and exported with any height and width.

    Attributes:
        outputs: what it returns, as a tuple in that order.
    """

    def __init__(self, model: HieraSegmentor):
        """
        Args:
            model: in eval; its settings (MODEL.HIERA_SEG.TEST) decide what is given. The modules
                are its own, not copies.

        Raises:
            ConfigError: it is no HieraSegmentor with a HieraPixelHead.
        """
        super().__init__()
        if not isinstance(model, HieraSegmentor):
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE builds a {type(model).__name__}; only a HieraSegmentor "
                "can be exported"
            )
        if not isinstance(model.sem_seg_head, HieraPixelHead):
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NAME builds a {type(model.sem_seg_head).__name__}; only "
                "HieraPixelHead can be exported (a query head's masked attention follows the "
                "image, which a fixed graph can not)"
            )
        self.model = model
        self.train(model.training)
        self.divisibility = max(model.size_divisibility, 1)
        self.options = model.decode_options
        labels = self.options.output != "scores"
        self.outputs = Outputs(
            sem_seg=self.options.output != "labels",
            hiera_labels=labels,
            hiera_labels_direct=labels and self.options.direct,
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            image: (B, 3, H, W) uint8, channels in the order of INPUT.FORMAT; or float of the same
                range.

        Returns:
            See `Outputs`.
        """
        batch, _, height, width = image.shape
        scores = self.scores(image)

        def unfold(x: Tensor) -> Tensor:
            return x.unflatten(1, (batch, height)).transpose(0, 1)

        def stack(levels: list[Tensor]) -> Tensor:
            return unfold(torch.stack(levels))

        maps = []
        if self.outputs.sem_seg:
            maps.append(unfold(scores.leaves()[0]))
        if self.outputs.hiera_labels:
            maps.append(stack(self._labels(scores)))
        if self.outputs.hiera_labels_direct:
            maps.append(stack(direct_labels(scores, self.model.hierarchy)))
        return tuple(maps)

    def scores(self, image: Tensor) -> NodeScores:
        """Scores (1, N, B * H, W) of the pixels of all images, as one image above another."""
        model = self.model
        batch, _, height, width = image.shape
        x = (image.to(model.pixel_mean.dtype) - model.pixel_mean) / model.pixel_std
        down, right = -height % self.divisibility, -width % self.divisibility
        x = F.pad(x, (0, right, 0, down))
        output, _ = model.sem_seg_head(model.backbone(x))
        size = (height + down, width + right)
        values = F.interpolate(output.values.float(), size, mode="bilinear", align_corners=False)
        # Cropped by negative padding: a slice would be asked whether it is the whole, and tie an
        # exported file to sizes that are no multiple of the divisibility
        values = F.pad(values, (0, -right, 0, -down))
        values = values.transpose(0, 1).flatten(1, 2)[None]
        return node_scores(NodeOutput(values, output.kind), model.hierarchy, self.options.variant)

    def _labels(self, scores: NodeScores) -> list[Tensor]:
        tree = self.model.hierarchy
        if self.options.min_confidence is None:
            return path_labels(scores.leaf_ranking()[0], tree)
        return cut_path(*greedy_path(scores, tree), self.options.min_confidence)
