"""Decoding in bands against the same decoding on whole tensors."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmark.harness import Comparison
from benchmark.losses import cityscapes, mapillary_sized
from hiera_seg.layers.scores import NodeOutput, node_scores
from hiera_seg.layers.tree_index import TreeIndex
from hiera_seg.modeling import DecodeOptions, NodeView, decode

_VARIANT = "path_sum"


def _logits(make_tree, size, device):
    torch.manual_seed(0)
    tree = make_tree()
    return tree, torch.randn(1, tree.num_nodes, size[0] // 4, size[1] // 4, device=device)


def make_bands(make_tree, size: tuple[int, int], device) -> Callable[[], object]:
    """Label maps of all levels from logits of stride 4, as the model makes them."""
    tree, logits = _logits(make_tree, size, device)
    view = NodeView(NodeOutput(logits, "logits"), padded_size=size, image_size=size)
    options = DecodeOptions(_VARIANT, direct=False, output="labels")
    return lambda: decode([view], tree, options, output_size=size)


def make_whole(make_tree, size: tuple[int, int], device) -> Callable[[], object]:
    """The defining order: resize everything, score everything, take the best path."""
    tree, logits = _logits(make_tree, size, device)
    leaf_levels = TreeIndex.of(tree, device).leaf_levels

    @torch.no_grad()
    def run():
        wide = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        ranking = node_scores(NodeOutput(wide, "logits"), tree, _VARIANT).leaf_ranking()
        leaf = ranking[0].argmax(0)
        return [nodes[leaf] for nodes in leaf_levels]

    return run


_FULL, _LARGE = (1024, 2048), (3000, 4000)
INFERENCE = [
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
