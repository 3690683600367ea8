"""Networks whose predictions can be worked out by hand, behind the real segmentor."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from hiera_seg import Hierarchy
from hiera_seg.layers.scores import NodeOutput
from hiera_seg.modeling import DecodeOptions, HieraSegmentor

TREE = {
    "sky": None,
    "body": {"arm": ["left-arm", "right-arm"], "head": None},
    "flat": ["road", "path"],
}


class Pixels(Backbone):
    """The image itself as a feature."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"image": ShapeSpec(channels=3, stride=1)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"image": x}


class ConvolutionHead(nn.Module):
    """One convolution to the nodes, its step as large as its kernel."""

    output_kind = "logits"
    ignore_value = 255

    def __init__(self, hierarchy: Hierarchy, stride: int):
        super().__init__()
        self.hierarchy = hierarchy
        self.loss_names = ("bce",)
        self.conv = nn.Conv2d(3, hierarchy.num_nodes, stride, stride)
        nn.init.normal_(self.conv.weight, std=2.0 / stride)

    def forward(self, features: dict[str, Tensor], targets: None = None):
        return NodeOutput(self.conv(features["image"]), self.output_kind), {}


class ScoreHead(ConvolutionHead):
    """Gives scores as query heads do: not negative, and above 1 at times."""

    output_kind = "scores"

    def forward(self, features: dict[str, Tensor], targets: None = None):
        output, losses = super().forward(features)
        return NodeOutput(1.2 * output.values.sigmoid(), self.output_kind), losses


class ColumnHead(ConvolutionHead):
    """The further left a pixel lies, the surer it is a left arm; right arms the other way."""

    def forward(self, features: dict[str, Tensor], targets: None = None):
        image = features["image"]
        values = image.new_zeros(len(image), self.hierarchy.num_nodes, *image.shape[-2:])
        ramp = torch.linspace(4, -4, image.shape[-1], device=image.device)
        values[:, self.hierarchy["left-arm"]] = ramp
        values[:, self.hierarchy["right-arm"]] = -ramp
        return NodeOutput(values, self.output_kind), {}


@pytest.fixture(scope="session")
def tree() -> Hierarchy:
    return Hierarchy.from_dict(TREE, name="figure", levels=["group", "part", "class"])


@pytest.fixture
def make_model(tree) -> Callable[..., HieraSegmentor]:
    """A function: stride, head and settings -> a segmentor in eval, the same each time."""
    figure = tree

    def make(
        stride: int = 1, head: type = ConvolutionHead, tree: Hierarchy = figure, **settings
    ) -> HieraSegmentor:
        torch.manual_seed(0)
        return HieraSegmentor(
            backbone=Pixels(),
            sem_seg_head=head(tree, stride),
            pixel_mean=[120.0, 118.0, 116.0],
            pixel_std=[60.0, 58.0, 57.0],
            decode_options=DecodeOptions(**settings),
        ).eval()

    return make


@pytest.fixture
def image() -> np.ndarray:
    """uint8 (40, 56, 3): smooth, as photographs are, so that resized copies resemble it."""
    y, x = np.mgrid[:40, :56]
    waves = [np.sin(x / 7 + k) * np.cos(y / (5 + k)) for k in range(3)]
    return (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)
