"""Small networks over a small ragged tree, built from configs as users build them."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem
from torch import nn
from torch.nn import functional as F

from hiera_seg import Hierarchy
from tests.helpers import new_config
from tests.modeling import mask2former_reference

TREE = {
    "flat": {"ground": ["road", "pavement"]},
    "vehicle": {"four_wheeled": ["car", "truck"], "bicyclist": None},
    "sky": None,
}
VOID = 255


@BACKBONE_REGISTRY.register()
class HieraTestBackbone(Backbone):
    """Strides 4, 16 and 32 in three convolutions without norm: what a head needs, and quick."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        super().__init__()
        self.stages = nn.ModuleDict(
            {
                "res2": Conv2d(input_shape.channels, 16, 5, stride=4, padding=2),
                "res4": Conv2d(16, 24, 5, stride=4, padding=2),
                "res5": Conv2d(24, 32, 3, stride=2, padding=1),
            }
        )
        for conv in self.stages.values():
            nn.init.kaiming_normal_(conv.weight)
        self._out_features = ["res2", "res4", "res5"]
        self._out_feature_channels = {"res2": 16, "res4": 24, "res5": 32}
        self._out_feature_strides = {"res2": 4, "res4": 16, "res5": 32}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = {}
        for name, conv in self.stages.items():
            x = features[name] = F.relu(conv(x))
        return features


@BACKBONE_REGISTRY.register()
def build_hiera_test_regnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A thin RegNet of Detectron2, which gives no builder for configs, under its FPN."""
    bottom_up = RegNet(
        stem_class=SimpleStem,
        stem_width=16,
        block_class=ResBottleneckBlock,
        depth=5,
        w_a=24,
        w_0=16,
        w_m=2.0,
        group_width=8,
        norm="BN",
        out_features=["s1", "s2", "s3", "s4"],
    )
    return FPN(bottom_up, ["s1", "s2", "s3", "s4"], 32, top_block=LastLevelMaxPool())


@pytest.fixture(scope="session")
def hierarchy() -> Hierarchy:
    return Hierarchy.from_dict(TREE, name="test_street", levels=["group", "kind", "class"])


@pytest.fixture(scope="session")
def base_cfg(hierarchy: Hierarchy) -> CfgNode:
    metadata = MetadataCatalog.get("hiera_test_modeling_train")
    metadata.set(hierarchy=hierarchy.to_dict(), stuff_classes=list(hierarchy.display_names[:6]))
    return new_config(
        *("MODEL.META_ARCHITECTURE", "HieraSegmentor"),
        *("MODEL.DEVICE", "cpu"),
        *("MODEL.WEIGHTS", ""),
        *("MODEL.BACKBONE.NAME", "HieraTestBackbone"),
        *("MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.PIXEL_STD", [57.4, 57.1, 58.4]),
        *("MODEL.RESNETS.NORM", "BN"),
        *("MODEL.SEM_SEG_HEAD.NAME", "HieraPixelHead"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res5"]),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
        *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 32),
        *("MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [1, 2, 3]),
        *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [16]),
        *("MODEL.SEM_SEG_HEAD.NORM", "BN"),
        *("MODEL.HIERA_SEG.EMBEDDING.DIM", 16),
        *("MODEL.HIERA_SEG.AUXILIARY.CHANNELS", 16),
        *("DATASETS.TRAIN", ("hiera_test_modeling_train",)),
        *("DATASETS.TEST", ("hiera_test_modeling_train",)),
    )


@pytest.fixture(scope="session")
def make_cfg(base_cfg: CfgNode) -> Callable[..., CfgNode]:
    """A function: config keys and values -> the small config with them."""

    def make(*options: object) -> CfgNode:
        cfg = base_cfg.clone()
        cfg.merge_from_list(list(options))
        return cfg

    return make


@pytest.fixture(scope="session")
def make_model(make_cfg: Callable[..., CfgNode]) -> Callable[..., nn.Module]:
    """A function: config keys and values -> a model with the same weights each time."""

    def make(*options: object) -> nn.Module:
        torch.manual_seed(7)
        return build_model(make_cfg(*options))

    return make


@pytest.fixture
def make_inputs(hierarchy: Hierarchy) -> Callable[..., list[dict]]:
    """A function: sizes -> training samples of these sizes, labels of every depth and void."""

    def make(*sizes: tuple[int, int], seed: int = 0) -> list[dict]:
        generator = torch.Generator().manual_seed(seed)
        samples = []
        for i, (height, width) in enumerate(sizes):
            image = torch.randint(256, (3, height, width), generator=generator).to(torch.uint8)
            nodes = torch.randint(hierarchy.num_nodes, (height, width), generator=generator)
            nodes[: height // 4] = VOID
            sample = {"image": image, "sem_seg": nodes, "file_name": f"scene_{i}.png"}
            samples.append({**sample, "height": height, "width": width})
        return samples

    return make


@pytest.fixture
def scene() -> dict:
    """One 64x96 training sample of six blocks, one a leaf, that a network can learn by heart."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(6).view(2, 3).repeat_interleave(32, 0).repeat_interleave(32, 1)
    colors = torch.randint(256, (6, 3), generator=generator)
    return {"image": colors[labels].permute(2, 0, 1).to(torch.uint8), "sem_seg": labels}


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The module of weights that anyone can make again."""
    return mask2former_reference
