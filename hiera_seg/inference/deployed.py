"""Wrap a segmentor as one function of tensors, which can be traced and exported."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.errors import ConfigError
from hiera_seg.layers.scores import NodeOutput, node_scores
from hiera_seg.modeling import HieraPixelHead, HieraSegmentor
from hiera_seg.modeling.decode import decode_scores
from hiera_seg.modeling.segmentor import require_segmentor


class DeployedSegmentor(nn.Module):
    """Normalize, pad, segment and decode images (B, 3, H, W) uint8 to maps of their size.

    Unlike the model, it takes images of one size only, and its control flow does not depend on
    their values. It can therefore be traced and exported for any height and width.

    Attributes:
        outputs: the names of the maps that it returns, in that order; those of HieraSegmentor.
    """

    def __init__(self, model: HieraSegmentor):
        """
        Args:
            model: in eval mode. Its settings (MODEL.HIERA_SEG.TEST) select the outputs; its
                modules are used, not copied.

        Raises:
            ConfigError: the model is not a HieraSegmentor with a HieraPixelHead, or takes images
                of other than three channels.
        """
        super().__init__()
        require_segmentor(model, "an exported file")
        if len(model.pixel_mean) != 3:
            raise ConfigError(
                f"MODEL.PIXEL_MEAN: cannot export a network for {len(model.pixel_mean)} channels; "
                "exported files take images of three"
            )
        if not isinstance(model.sem_seg_head, HieraPixelHead):
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NAME: cannot export a {type(model.sem_seg_head).__name__}, "
                "because masked attention depends on the image; use HieraPixelHead"
            )
        self.model = model
        self.train(model.training)
        self.divisibility = max(model.size_divisibility, 1)
        self.options = replace(model.decode_options, confidence=False, greedy_path=False)
        self.outputs = [] if self.options.output == "labels" else ["sem_seg"]
        if self.options.output != "scores":
            self.outputs += ["hiera_labels"] + ["hiera_labels_direct"] * self.options.direct

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            image: (B, 3, H, W) uint8, or float of the same range 0..255; channels in the order of
                INPUT.FORMAT.

        Returns:
            The maps of `outputs`: "sem_seg" (B, L, H, W) float32, leaf scores; "hiera_labels"
            (B, levels, H, W) int64, node ids of the decoded path, coarse to fine;
            "hiera_labels_direct", in the same form, the best node per level by its own score.
        """
        model, tree = self.model, self.model.hierarchy
        batch, _, height, width = image.shape
        x = (image.to(model.pixel_mean.dtype) - model.pixel_mean) / model.pixel_std
        down, right = -height % self.divisibility, -width % self.divisibility
        x = F.pad(x, (0, right, 0, down))
        output = model.sem_seg_head.node_output(model.backbone(x))
        size = (height + down, width + right)
        values = F.interpolate(output.values.float(), size, mode="bilinear", align_corners=False)
        # Negative padding, because torch.export specializes a slice on whether it crops anything,
        # which ties the file to sizes that are not multiples of the divisibility
        values = F.pad(values, (0, -right, 0, -down))
        values = values.transpose(0, 1).flatten(1, 2)[None]  # all images stacked vertically
        scores = node_scores(NodeOutput(values, output.kind), tree, self.options.variant)

        found = decode_scores(scores, tree, self.options)
        maps = (torch.stack(x) if isinstance(x, list) else x for x in map(found.get, self.outputs))
        return tuple(x.unflatten(1, (batch, height)).transpose(0, 1) for x in maps)
