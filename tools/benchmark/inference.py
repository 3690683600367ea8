"""Compare prediction with a flat network, and decoding in bands with decoding of whole tensors."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn

from benchmark.harness import Comparison
from benchmark.losses import cityscapes, mapillary_sized
from benchmark.training import network_config
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference import HieraSegmentorWithTTA
from hiera_seg.layers.scores import NodeOutput, node_scores
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.modeling import DecodeOptions, NodeView, decode

_VARIANT = "path_sum"


def _logits(make_tree, size, device):
    torch.manual_seed(0)
    tree = make_tree()
    return tree, torch.randn(1, tree.num_nodes, size[0] // 4, size[1] // 4, device=device)


def make_bands(make_tree, size: tuple[int, int], device) -> Callable[[], object]:
    """Decode logits of stride 4 to label maps of all levels, as the model does."""
    tree, logits = _logits(make_tree, size, device)
    view = NodeView(NodeOutput(logits, "logits"), padded_size=size, image_size=size)
    options = DecodeOptions(_VARIANT, direct=False, output="labels")
    return lambda: decode([view], tree, options, output_size=size)


def make_whole(make_tree, size: tuple[int, int], device) -> Callable[[], object]:
    """Decode in the order of the definition: resize and score whole tensors, take the best path."""
    tree, logits = _logits(make_tree, size, device)
    leaf_levels = TreeIndex.of(tree, device).leaf_levels

    @torch.no_grad()
    def run():
        wide = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        ranking = node_scores(NodeOutput(wide, "logits"), tree, _VARIANT).leaf_ranking()
        leaf = ranking[0].argmax(0)
        return [nodes[leaf] for nodes in leaf_levels]

    return run


def _network(architecture: str, head: str, depth: int, device) -> nn.Module:
    """Build a DeepLabV3+ on a ResNet for Cityscapes, in eval mode, with random weights."""
    torch.manual_seed(0)
    cfg = network_config(depth, _INPUT, device)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME = architecture, head
    cfg.MODEL.HIERA_SEG.HIERARCHY = "cityscapes"
    cfg.MODEL.HIERA_SEG.LOSSES = [["marginal_ce", 1.0]]
    cfg.MODEL.HIERA_SEG.TEST.OUTPUT = "labels"
    cfg.MODEL.HIERA_SEG.TEST.DIRECT = False
    model = build_model(cfg).eval()
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    return model


def _image(size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 16, size[1] // 16, generator=generator)
    return F.interpolate(255 * coarse, size, mode="bilinear")[0].to(torch.uint8)


def make_prediction(depth: int, device) -> Callable[[], object]:
    """Predict label maps of all levels at the size of Cityscapes' images, from half that size."""
    model, image = _network("HieraSegmentor", "HieraPixelHead", depth, device), _image(_INPUT)
    return lambda: model([{"image": image, "height": _FULL[0], "width": _FULL[1]}])


def make_flat_prediction(depth: int, device) -> Callable[[], object]:
    """Predict the label map of stock Detectron2."""
    model, image = _network("SemanticSegmentor", "DeepLabV3PlusHead", depth, device), _image(_INPUT)
    sample = {"image": image, "height": _FULL[0], "width": _FULL[1]}

    @torch.no_grad()
    def run():
        return model([sample])[0]["sem_seg"].argmax(0)

    return run


def _augmented(depth: int, sides: tuple[int, ...], device) -> HieraSegmentorWithTTA:
    model = _network("HieraSegmentor", "HieraPixelHead", depth, device)
    return HieraSegmentorWithTTA(
        model, resizes=[T.ResizeShortestEdge(side, 4 * side) for side in sides], flip=True
    )


def make_augmented(
    depth: int, size: tuple[int, int], sides: tuple[int, ...], device
) -> Callable[[], object]:
    """Predict with test-time augmentation over several sizes and their mirror images."""
    model, image = _augmented(depth, sides, device), _image(size)
    return lambda: model([{"image": image}])


def make_plain_average(
    depth: int, size: tuple[int, int], sides: tuple[int, ...], device
) -> Callable[[], object]:
    """Average full-size softmax maps of the same network."""
    model, image = _augmented(depth, sides, device), _image(size).permute(1, 2, 0).numpy()
    average = _plain_average(model.hierarchy, size, device)
    return lambda: average(model.views(image))


def make_banded_views(size: tuple[int, int], sides: tuple[int, ...], device):
    """Decode the views of one image, without the network."""
    tree, views = _views(size, sides, device)
    options = DecodeOptions("marginal", direct=False, output="labels")
    return lambda: decode(views, tree, options, output_size=size)


def make_plain_views(size: tuple[int, int], sides: tuple[int, ...], device):
    """Average full-size softmax maps of the same views."""
    tree, views = _views(size, sides, device)
    average = _plain_average(tree, size, device)
    return lambda: average(views)


def _views(size: tuple[int, int], sides: tuple[int, ...], device):
    tree, views = cityscapes(), []
    for side in sides:
        scaled = (side, side * size[1] // size[0])
        for mirrored in (False, True):
            _, logits = _logits(cityscapes, scaled, device)
            output = NodeOutput(logits, "logits")
            views.append(NodeView(output, padded_size=scaled, image_size=scaled, mirrored=mirrored))
    return tree, views


def _plain_average(tree: Hierarchy, size: tuple[int, int], device) -> Callable[[list], object]:
    leaf_levels = TreeIndex.of(tree, device).leaf_levels

    @torch.no_grad()
    def run(views: list[NodeView]):
        total = 0
        for view in views:
            height, width = view.image_size
            leaves = view.output.values[:, : tree.num_leaves]
            wide = F.interpolate(leaves, view.padded_size, mode="bilinear")[..., :height, :width]
            scores = F.interpolate(wide, size, mode="bilinear").softmax(1)
            total = total + (scores.flip(-1) if view.mirrored else scores)
        leaf = total[0].argmax(0)
        return [nodes[leaf] for nodes in leaf_levels]

    return run


_INPUT, _FULL, _LARGE = (512, 1024), (1024, 2048), (3000, 4000)
_SIDES = (384, 512, 640)
INFERENCE = [
    *(
        Comparison(
            f"DeepLabV3+ R-{depth}, 512 x 1024, labels of 2 levels at 1024 x 2048",
            partial(make_prediction, depth),
            partial(make_flat_prediction, depth),
            "stock SemanticSegmentor, argmax",
            max_time=1.05,
        )
        for depth in (18, 50)
    ),
    Comparison(
        "test-time augmentation R-18, 3 sizes, mirrored, at 1024 x 2048",
        partial(make_augmented, 18, _FULL, _SIDES),
        partial(make_plain_average, 18, _FULL, _SIDES),
        "mean of full-size softmax maps",
        max_time=0.8,
    ),
    Comparison(
        "decode the 6 views of it",
        partial(make_banded_views, _FULL, _SIDES),
        partial(make_plain_views, _FULL, _SIDES),
        "mean of full-size softmax maps",
        max_time=0.8,
        max_memory=0.1,
    ),
    Comparison(
        "decode 26 nodes to 1024 x 2048",
        partial(make_bands, cityscapes, _FULL),
        partial(make_whole, cityscapes, _FULL),
        "whole tensors",
        max_time=0.7,
        max_memory=0.2,
    ),
    Comparison(
        "decode 144 nodes to 3000 x 4000",
        partial(make_bands, mapillary_sized, _LARGE),
        partial(make_bands, cityscapes, _FULL),
        "26 nodes to 1024 x 2048",
        max_extra=700,
    ),
]
