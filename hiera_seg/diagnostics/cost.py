"""Count the cost of a network per module, and compare it with that of a flat head."""

import functools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_analysis import JitModelAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from hiera_seg.config import resolve_hierarchy
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers import PixelEmbeddings
from hiera_seg.modeling import HieraSegmentor
from hiera_seg.modeling.build import build_model
from hiera_seg.modeling.segmentor import require_segmentor


@dataclass(frozen=True)
class ModuleCost:
    """The cost of one module, including its submodules, for one image.

    Attributes:
        name: as in the state dict; "" is the whole network.
        parameters: number of parameters.
        flops: multiply-adds at test time, as counted by fvcore; 0 if it is not used.
        activations: number of outputs of its convolutions and matrix products at test time.
    """

    name: str
    parameters: int
    flops: float
    activations: float


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network for one image.

    Attributes:
        hierarchy: the tree of its channels.
        size: (height, width) of the image.
        modules: the whole network, then its modules in order.
        training_flops: multiply-adds of a forward pass in training, without the losses.
    """

    hierarchy: Hierarchy
    size: tuple[int, int]
    modules: tuple[ModuleCost, ...]
    training_flops: float

    @property
    def whole(self) -> ModuleCost:
        return self.modules[0]

    @property
    def test_parameters(self) -> int:
        """Number of parameters without the heads that are used in training only."""
        unused = [m for m in self.modules if m.name.count(".") == 1 and m.flops == 0]
        return self.whole.parameters - sum(m.parameters for m in unused)


def network_cost(cfg: CfgNode, size: tuple[int, int]) -> NetworkCost:
    """Count the parameters, multiply-adds and activations of a config's network, on CPU.

    Weights are random and nothing is downloaded. Resizing, scoring and decoding, which have no
    weights and are linear in the size of the image, are not counted.

    Args:
        cfg: with a HieraSegmentor; not changed.
        size: (height, width) of the image.

    Raises:
        ConfigError: the config is invalid, or has another meta-architecture.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.HIERA_SEG.TIMM.PRETRAINED = False
    cfg.MODEL.HIERA_SEG.TIMM.CHECKPOINT = ""
    # Files of pixel counts, which have no cost, and do not fit the flat tree
    cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.METHOD = cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.FILE = ""
    cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.TAU = 0.0
    model = require_segmentor(build_model(cfg), "the cost analysis").eval()
    step = max(model.size_divisibility, 1)
    padded = [-(-n // step) * step for n in size]
    image = torch.zeros(1, len(cfg.MODEL.PIXEL_MEAN), *padded)

    network = _Network(model)
    flops = _count(FlopCountAnalysis, network, image)
    activations = _count(ActivationCountAnalysis, network, image)
    modules = [
        ModuleCost(
            name=name.removeprefix("model").removeprefix("."),
            parameters=sum(p.numel() for p in module.parameters()),
            flops=flops[name],
            activations=activations[name],
        )
        for name, module in network.named_modules()
        if name.startswith("model")
    ]
    # Only the head, because norms in training mode need several images
    model.sem_seg_head.training = True
    training = _count(FlopCountAnalysis, network, image)["model"]
    return NetworkCost(model.hierarchy, size, tuple(modules), training)


class _Network(nn.Module):
    """A segmentor without resizing, decoding and losses."""

    def __init__(self, model: HieraSegmentor):
        super().__init__()
        self.model = model
        # A call, so that operations are counted as those of the head
        model.sem_seg_head.forward = model.sem_seg_head.node_output

    def forward(self, image: Tensor) -> list:
        head = self.model.sem_seg_head
        features = self.model.backbone(image)
        if not head.training:
            return [head(features).values]
        return [x.dense() if isinstance(x, PixelEmbeddings) else x for x in head.layers(features)]


def _count(kind: type[JitModelAnalysis], network: _Network, image: Tensor) -> dict[str, float]:
    """Return the counts by module; that of "model" is the total, as its forward is not called."""
    traced = TracingAdapter(network, image, allow_non_tensor=True)
    analysis = kind(traced, traced.flattened_inputs)
    count = functools.partial(_count_attention, flops=kind is FlopCountAnalysis)
    analysis.set_op_handle("aten::scaled_dot_product_attention", count)
    analysis.unsupported_ops_warnings(False)
    analysis.uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    with torch.no_grad():
        counts = analysis.by_module()
    prefix = "model."  # of TracingAdapter
    result = {name.removeprefix(prefix): n for name, n in counts.items() if name}
    return {**result, "model": counts[""]}


def _count_attention(inputs: Sequence[Any], outputs: Sequence[Any], *, flops: bool) -> int:
    """Count the two matrix products of an attention, which fvcore does not count."""
    query, key, out = (get_shape(value) for value in (*inputs[:2], outputs[0]))
    relations = math.prod(query[:-1]) * key[-2]
    if flops:
        return relations * (query[-1] + out[-1])
    return relations + math.prod(out)


def flat_config(cfg: CfgNode, folder: Path) -> CfgNode:
    """Return the config of the same network with one channel per leaf and plain cross entropy.

    Args:
        cfg: a hierarchical config; not changed.
        folder: an existing folder for the file of the flat tree.
    """
    hierarchy = resolve_hierarchy(cfg)
    flat = cfg.clone()
    flat.defrost()
    hiera = flat.MODEL.HIERA_SEG
    # Unlike names, paths are unique
    leaves = [path.replace("/", ".") for path in hierarchy.paths[: hierarchy.num_leaves]]
    Hierarchy.from_dict(leaves, name="flat").to_yaml(folder / "flat.yaml")
    hiera.HIERARCHY = str(folder / "flat.yaml")
    if hiera.LOSSES:  # empty for query heads
        hiera.LOSSES = [["marginal_ce", 1.0]]
        hiera.MARGINAL_CE.LEVEL_WEIGHTS = []
    hiera.LEVEL_CE.LEVEL_WEIGHTS = []
    hiera.TEST.DECODE = "auto"
    return flat


def compare_with_flat(cfg: CfgNode, size: tuple[int, int]) -> tuple[NetworkCost, NetworkCost]:
    """Return :func:`network_cost` of a config, and of the same network with a flat head."""
    with tempfile.TemporaryDirectory(prefix="hiera_seg_") as folder:
        return network_cost(cfg, size), network_cost(flat_config(cfg, Path(folder)), size)
