"""Decoding: from node outputs at a head's stride to scores and label maps at the image's own size.

The order that defines the result: values resized to the padded input, cropped to the image,
resized to the original size (bilinear, ``align_corners=False``), then scored, then decoded. Done
that way a large image with many nodes needs N x H x W floats several times over. But bilinear
resizing treats rows and columns alone, and scoring and decoding treat pixels alone; so the same
result comes out in bands of output rows that fit the cache, apart from the rounding of the last
bits, which can matter only where two leaves tie.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_seg.config import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import (
    DECODE_VARIANTS,
    SCORE_VARIANTS,
    NodeOutput,
    NodeScores,
    check_variant,
    mean_scores,
    node_scores,
)
from hiera_seg.layers.tree_ops import tree_tables

OUTPUTS = ("both", "scores", "labels")
DECODE_KEY = "MODEL.HIERA_SEG.TEST.DECODE"

# Losses that train logits as independent sigmoids, one a node.
_SIGMOID_LOSSES = {"bce", "tree_min", "focal_tree_min", "rmi"}
# Values of one band, N x rows x width: small enough for a CPU's cache, large enough to fill a GPU.
_BAND_VALUES_CPU = 1 << 19
_BAND_VALUES_GPU = 1 << 25

Size = tuple[int, int]


class NodeView(NamedTuple):
    """What a head says about an image, or about a resized or mirrored copy of it.

    Attributes:
        output: of one image, values (1, N, h, w) or (N, h, w) covering the padded input.
        padded_size: (height, width) of the network's input.
        image_size: (height, width) of the part of it that the image fills, from the top left.
        mirrored: whether the network saw left as right.
        swap: of a mirrored view, int64 (N,): which of its channels speaks of each node ("left arm"
            of "right arm"); None: each channel of its own node.
    """

    output: NodeOutput
    padded_size: Size
    image_size: Size
    mirrored: bool = False
    swap: Tensor | None = None


def decode_variant(name: str, loss_names: Iterable[str], *, kind: str = "logits") -> str:
    """Resolve the config's decode variant: "auto" takes the one that the losses train.

    Args:
        name: "auto" or one of `DECODE_VARIANTS`; the value of MODEL.HIERA_SEG.TEST.DECODE.
        loss_names: names of the losses that train the model.
        kind: what the head puts out, "logits" or "scores".

    Returns:
        One of `DECODE_VARIANTS`.

    Raises:
        ConfigError: unknown name, a variant that the kind does not allow, or "auto" with losses
            that do not say what the logits of nodes mean.
    """
    losses = list(loss_names)
    if name == "auto":
        if kind == "scores":
            return "path_sum"
        if _SIGMOID_LOSSES.intersection(losses):
            return "path_sum"
        if "level_ce" in losses:  # beside marginal_ce too: it trains every level, that one leaves
            return "level_softmax"
        if "marginal_ce" in losses:
            return "marginal"
        raise ConfigError(
            f"{DECODE_KEY} is 'auto', but the losses {losses} do not say what the logits of nodes "
            f"mean; set it to one of {DECODE_VARIANTS}"
        )
    if name not in DECODE_VARIANTS:
        raise ConfigError(
            f"{DECODE_KEY} is {name!r}; it must be 'auto' or one of {DECODE_VARIANTS}"
        )
    if kind == "scores" and name not in SCORE_VARIANTS:
        raise ConfigError(
            f"{DECODE_KEY} is {name!r}, but the head puts out kind 'scores' (query heads do): it "
            f"must be 'auto' or one of {SCORE_VARIANTS}"
        )
    return name


@torch.no_grad()
def decode(
    node_output: NodeOutput,
    hierarchy: Hierarchy,
    *,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    variant: str,
    direct: bool = True,
    output: str = "both",
    safe_depth: float | None = None,
) -> dict:
    """Decode one image's node outputs to leaf scores and label maps per level.

    Args:
        node_output: values (1, N, h, w) or (N, h, w) covering the padded input.
        hierarchy: the tree whose numbering the channels follow.
        padded_size: (height, width) of the network's input.
        image_size: (height, width) of the part of it that the image fills, from the top left.
        output_size: (height, width) H, W of the result, the image's original size.
        variant: one of `DECODE_VARIANTS`; what each means is told in `hiera_seg.layers.scores`.
        direct: whether to give the direct labels too.
        output: "both"; "scores", without label maps; or "labels", without "sem_seg", which never
            holds leaf scores at full size.
        safe_depth: a threshold t. The labels then follow a walk that begins at the best top-level
            node and goes down to the best child as long as that child's score (the score that
            direct labels use) is at least t; where it stops early, the label is an inner node at
            that level and every finer one. None: the path of the best leaf. "sem_seg" is the same
            either way.

    Returns:
        A dict, tensors on the device of the values:

        - "sem_seg": (L, H, W) float, the scores of the leaves;
        - "hiera_labels": list over levels, coarse to fine, of (H, W) integer maps of node ids;
        - "hiera_labels_direct": the same, the best of the nodes at each level by itself.

        Label maps are int64; int32 with ``output="labels"``, where they are the memory. Among
        equal scores the lowest id wins.

    Raises:
        ValueError: sizes, variant, output or threshold that can not be, each with its value.
    """
    view = NodeView(node_output, padded_size, image_size)
    return decode_views(
        [view],
        hierarchy,
        output_size=output_size,
        variant=variant,
        direct=direct,
        output=output,
        safe_depth=safe_depth,
    )


@torch.no_grad()
def decode_views(
    views: Sequence[NodeView],
    hierarchy: Hierarchy,
    *,
    output_size: Size,
    variant: str,
    direct: bool = True,
    output: str = "both",
    safe_depth: float | None = None,
) -> dict:
    """Decode several views of one image as one.

    Each view's values are resized to the image's original size and scored there; where there are
    several, the scores (probabilities, not logits) of every node are averaged before anything is
    decided.

    Args:
        views: one or more, of one kind of output.
        hierarchy, output_size, variant, direct, output, safe_depth: as in `decode`.

    Returns, Raises:
        As `decode`.
    """
    values = [_checked_values(view.output, hierarchy) for view in views]
    for view in views:
        check_variant(variant, view.output.kind)
        _check_sizes(view.padded_size, view.image_size, output_size)
    if output not in OUTPUTS:
        raise ValueError(f"output is {output!r}; it must be one of {OUTPUTS}")
    if safe_depth is not None and not safe_depth >= 0:
        raise ValueError(f"safe_depth is {safe_depth}; it must be a score of 0 or more, or None")

    height, width = output_size
    num_levels = hierarchy.num_levels
    device = values[0].device
    kwargs = {"dtype": torch.int32 if output == "labels" else torch.int64, "device": device}
    scores_out, labels, direct_labels = None, [], []
    if output != "labels":
        scores_out = values[0].new_empty((hierarchy.num_leaves, height, width))
    if output != "scores":
        labels = [torch.empty(output_size, **kwargs) for _ in range(num_levels)]
        if direct:
            direct_labels = [torch.empty(output_size, **kwargs) for _ in range(num_levels)]

    rows_of = [
        _resizes(x.shape[1], view.padded_size[0], view.image_size[0], height, x)
        for x, view in zip(values, views, strict=True)
    ]
    budget = _BAND_VALUES_CPU if device.type == "cpu" else _BAND_VALUES_GPU
    rows = max(1, budget // (hierarchy.num_nodes * width * len(views)))
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        index = torch.arange(band.start, band.stop, device=device)
        scores = mean_scores(
            [
                node_scores(_band(x, view, steps, index, width), hierarchy, variant)
                for x, view, steps in zip(values, views, rows_of, strict=True)
            ]
        )
        ranking = scores.leaf_ranking()[0]
        if scores_out is not None:
            scores_out[:, band] = scores.leaves()[0] if variant == "path_product" else ranking
        if labels:
            if safe_depth is None:
                path = _path_labels(ranking, hierarchy)
            else:
                path = _safe_labels(scores, hierarchy, safe_depth)
            for out, level_labels in zip(labels, path, strict=True):
                out[band] = level_labels
        for level, out in enumerate(direct_labels):
            nodes = _levels(hierarchy, device)[level].nodes
            out[band] = nodes[_best(scores.at_level(level)[0])[1]]

    result = {}
    if scores_out is not None:
        result["sem_seg"] = scores_out
    if labels:
        result["hiera_labels"] = labels
    if direct_labels:
        result["hiera_labels_direct"] = direct_labels
    return result


def _band(
    values: Tensor, view: NodeView, row_steps: list["_Resize"], index: Tensor, width: int
) -> NodeOutput:
    """Rows `index` of a view at its final size, left and right as in the image."""
    narrow = _resize_rows(values, row_steps, index)
    wide = _resize_columns(narrow, view.padded_size[1], view.image_size[1], width)
    if view.mirrored:
        wide = wide.flip(-1)
        if view.swap is not None:
            wide = wide[view.swap]
    return NodeOutput(wide[None], view.output.kind)


def _checked_values(node_output: NodeOutput, hierarchy: Hierarchy) -> Tensor:
    """The values as (N, h, w), in float32 or float64."""
    values = node_output.values
    if values.dim() == 4 and values.shape[0] == 1:
        values = values[0]
    if values.dim() != 3 or values.shape[0] != hierarchy.num_nodes or 0 in values.shape:
        raise ValueError(
            f"node values of one image have shape {tuple(node_output.values.shape)}; tree "
            f"{hierarchy.name!r} needs ({hierarchy.num_nodes}, h, w), one channel a node"
        )
    return values if values.dtype == torch.float64 else values.float()


def _check_sizes(padded_size: Size, image_size: Size, output_size: Size) -> None:
    if min(*image_size, *output_size) < 1:
        raise ValueError(
            f"image_size {tuple(image_size)} and output_size {tuple(output_size)} must be positive"
        )
    if image_size[0] > padded_size[0] or image_size[1] > padded_size[1]:
        raise ValueError(
            f"image_size {tuple(image_size)} does not fit into padded_size {tuple(padded_size)}"
        )


class _Resize(NamedTuple):
    """One bilinear resize along rows: row i is the mean of rows low and high by weight."""

    low: Tensor  # (rows out,) int64
    high: Tensor  # (rows out,) int64
    weight: Tensor  # (rows out, 1) float, of the high row


def _resizes(size: int, padded: int, image: int, final: int, like: Tensor) -> list[_Resize]:
    """The resizes that rows go through, first to last; the crop between only limits the second."""
    steps = [(size, padded), (image, final)]
    return [_resize_taps(a, b, like) for a, b in steps if a != b]


def _resize_taps(size_in: int, size_out: int, like: Tensor) -> _Resize:
    # The source coordinate as F.interpolate has it, in the same precision.
    position = torch.arange(size_out, dtype=like.dtype, device=like.device) + 0.5
    position = (position * (size_in / size_out) - 0.5).clamp_(min=0)
    low = position.long().clamp_(max=size_in - 1)
    return _Resize(low, (low + 1).clamp_(max=size_in - 1), (position - low)[:, None])


def _resize_rows(values: Tensor, steps: list[_Resize], index: Tensor) -> Tensor:
    """Rows `index` of the values after all the resizes: (N, h, w) -> (N, len(index), w).

    It goes back from the rows wanted to the rows they are made of, so that nothing but them is
    ever computed.
    """
    if not steps:
        return values.index_select(1, index)
    *earlier, step = steps
    return torch.lerp(
        _resize_rows(values, earlier, step.low[index]),
        _resize_rows(values, earlier, step.high[index]),
        step.weight[index],
    )


def _resize_columns(values: Tensor, padded: int, image: int, final: int) -> Tensor:
    """The same resizes and crop along columns: (N, rows, w) -> (N, rows, final)."""
    values = _resize_width(values, padded)[..., :image]
    return _resize_width(values, final)


def _resize_width(values: Tensor, width: int) -> Tensor:
    if values.shape[-1] == width:
        return values
    if values.device.type == "cpu":
        return F.interpolate(values, size=width, mode="linear", align_corners=False)
    # On a GPU the linear kernel has one thread a column; the bilinear one has one a pixel.
    planes = values.reshape(1, 1, -1, values.shape[-1])
    size = (planes.shape[2], width)
    planes = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
    return planes.view(*values.shape[:-1], width)


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over channels and the first channel that has it: (C, H, W) -> (H, W), (H, W) int64.

    `Tensor.argmax` across channels takes ten times as long on a CPU.
    """
    best = scores.amax(0)
    channels = scores.shape[0]
    dtype = torch.uint8 if channels <= 255 else torch.int16 if channels < 1 << 15 else torch.int32
    countdown = torch.arange(channels, 0, -1, dtype=dtype, device=scores.device)
    hit = (scores == best).to(dtype).mul_(countdown[:, None, None])
    first = channels - hit.amax(0).long()
    return best, first.clamp_(max=channels - 1)  # nothing equals NaN: still an id of the tree


def _path_labels(ranking: Tensor, hierarchy: Hierarchy) -> list[Tensor]:
    """Labels per level of the best leaf's path: (L, H, W) -> list of (H, W)."""
    leaf = _best(ranking)[1]
    leaf_levels = tree_tables(hierarchy, ranking.device).leaf_levels
    return [*(nodes[leaf] for nodes in leaf_levels[:-1]), leaf]


def _safe_labels(scores: NodeScores, hierarchy: Hierarchy, threshold: float) -> list[Tensor]:
    """Labels per level of the walk down to the last node that is sure enough."""
    labels: list[Tensor] = []
    for level, table in enumerate(_levels(hierarchy, scores.at_level(0).device)):
        candidates = scores.at_level(level)[0]
        if level == 0:
            labels.append(table.nodes[_best(candidates)[1]])
            continue
        # Only children of the node the walk stands at may win. A leaf stands for itself, as its
        # own only child; a walk that has stopped at an inner node finds none, and stays.
        here = labels[-1]
        below = table.above[:, None, None] == here
        best, index = _best(candidates.masked_fill(~below, -torch.inf))
        labels.append(torch.where(best >= threshold, table.nodes[index], here))
    return labels


class _Level(NamedTuple):
    nodes: Tensor  # int64, ids of the nodes standing at the level
    above: Tensor  # int64, id of what stands for each of them one level up; -1 at the top


@lru_cache(maxsize=32)
def _levels(hierarchy: Hierarchy, device: torch.device) -> tuple[_Level, ...]:
    levels = []
    for level in range(hierarchy.num_levels):
        nodes = np.array(hierarchy.level_nodes(level))
        above = hierarchy.level_ancestor[level - 1][nodes] if level else np.full(len(nodes), -1)
        levels.append(
            _Level(torch.tensor(nodes, device=device), torch.tensor(above, device=device))
        )
    return tuple(levels)
