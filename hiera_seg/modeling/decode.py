"""Decoding: from node outputs at a head's stride to scores and label maps at the image's own size.

The order that defines the result: values resized to the padded input, cropped to the image,
resized to the original size (bilinear, ``align_corners=False``), then scored, then decoded. Done
that way a large image with many nodes needs N x H x W floats several times over. But bilinear
resizing treats rows and columns alone, and scoring and decoding treat pixels alone; so the same
result comes out in bands of output rows that fit the cache, apart from the rounding of the last
bits, which can matter only where two leaves tie.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.utils.logger import log_first_n
from torch import Tensor

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import (
    DECODE_VARIANTS,
    SCORE_VARIANTS,
    NodeOutput,
    check_variant,
    mean_scores,
    node_scores,
)
from hiera_seg.losses import declared_decoding
from hiera_seg.modeling.paths import (
    direct_labels,
    greedy_walk,
    label_scores,
    path_labels,
    stop_walk,
)

OUTPUTS = ("both", "scores", "labels")
DECODE_KEY = "MODEL.HIERA_SEG.TEST.DECODE"

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
            that do not declare what the logits of nodes mean (see `LossTerm.decoding`).
    """
    losses = list(loss_names)
    if name == "auto":
        if kind == "scores":
            return "path_sum"
        variant = declared_decoding(losses)
        if variant is None:
            raise ConfigError(
                f"{DECODE_KEY} is 'auto', but none of the losses {losses} declares what the logits "
                f"of nodes mean; set it to one of {DECODE_VARIANTS}, or give a loss of your own "
                "the class attribute `decoding` with one of these values"
            )
        return variant
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
    path_scores: bool = False,
    walk: bool = False,
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
        path_scores: whether to give "hiera_scores" beside label maps.
        walk: whether to give "hiera_walk" and "hiera_walk_limits", from which the labels at every
            threshold follow.

    Returns:
        A dict, tensors on the device of the values:

        - "sem_seg": (L, H, W) float, the scores of the leaves;
        - "hiera_labels": list over levels, coarse to fine, of (H, W) integer maps of node ids;
        - "hiera_labels_direct": the same, the best of the nodes at each level by itself;
        - "hiera_scores": list over levels of (H, W) float32, the score of the node in
          "hiera_labels" (the score that direct labels use);
        - "hiera_walk": (H, W) the leaf at which the walk of `safe_depth` would end with no
          threshold;
        - "hiera_walk_limits": for each level but the coarsest, (H, W) float32: the largest
          threshold with which the walk gets to that level;
        - "hiera_nan_count": int, how many positions of the values hold NaN; absent where none does.

        Label maps are int64; int32 with ``output="labels"``, where they are the memory. Among
        equal scores the lowest id wins. Where one of the scores that are compared is NaN, all of
        them count as equal, and no threshold is passed; the first image with NaN gives a warning.

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
        path_scores=path_scores,
        walk=walk,
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
    path_scores: bool = False,
    walk: bool = False,
) -> dict:
    """Decode several views of one image as one.

    Each view's values are resized to the image's original size and scored there; where there are
    several, the scores (probabilities, not logits) of every node are averaged before anything is
    decided.

    Args:
        views: one or more, of one kind of output.
        hierarchy: as all that follow, see `decode`.

    Returns:
        As `decode`.

    Raises:
        ValueError: as `decode`.
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
    device = values[0].device
    nan_count = sum(x.isnan().any(0).sum() for x in values)
    label_type = torch.int32 if output == "labels" else torch.int64
    rows_of = [
        _resizes(x.shape[1], view.padded_size[0], view.image_size[0], height, x)
        for x, view in zip(values, views, strict=True)
    ]
    budget = _BAND_VALUES_CPU if device.type == "cpu" else _BAND_VALUES_GPU
    rows = max(1, budget // (hierarchy.num_nodes * width * len(views)))
    result: dict[str, Any] = {}
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        index = torch.arange(band.start, band.stop, device=device)
        scores = mean_scores(
            [
                node_scores(_band(x, view, steps, index, width), hierarchy, variant)
                for x, view, steps in zip(values, views, rows_of, strict=True)
            ]
        )
        part: dict[str, Any] = {}
        ranks = output != "labels" or safe_depth is None  # a walk reads none
        ranking = scores.leaf_ranking()[0] if ranks else None
        if output != "labels":
            part["sem_seg"] = scores.leaves()[0] if variant == "path_product" else ranking
        if walk or (output != "scores" and safe_depth is not None):
            steps, limits = greedy_walk(scores, hierarchy)
        if output != "scores":
            if safe_depth is None:
                labels = path_labels(ranking, hierarchy)
            else:
                labels = stop_walk(steps, limits, safe_depth)
            part["hiera_labels"] = labels
            if direct:
                part["hiera_labels_direct"] = direct_labels(scores, hierarchy)
            if path_scores:
                part["hiera_scores"] = label_scores(labels, scores, hierarchy)
        if walk:
            part |= {"hiera_walk": steps[-1], "hiera_walk_limits": limits}
        _write_band(result, part, band, height, label_type)
    if nan_count := int(nan_count):  # last: on a GPU to ask is to wait
        result["hiera_nan_count"] = nan_count
        positions = sum(x[0].numel() for x in values)
        log_first_n(
            logging.WARNING,
            f"{nan_count} of {positions} positions of an image hold NaN node values: where scores "
            "are NaN the label is the lowest node id; check the weights and the input. Later "
            "images are counted without a warning.",
            name=__name__,
        )
    return result


def _write_band(
    result: dict[str, Any],
    part: dict[str, Any],
    band: slice,
    height: int,
    label_type: torch.dtype,
) -> None:
    """Write rows of maps, tensors or lists of them, into those of the whole image."""
    for key, values in part.items():
        maps = values if isinstance(values, list) else [values]
        if key not in result:
            whole = [
                x.new_empty(
                    (*x.shape[:-2], height, x.shape[-1]),
                    dtype=x.dtype if x.is_floating_point() else label_type,
                )
                for x in maps
            ]
            result[key] = whole if isinstance(values, list) else whole[0]
        whole = result[key] if isinstance(values, list) else [result[key]]
        for out, x in zip(whole, maps, strict=True):
            out[..., band, :] = x


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
