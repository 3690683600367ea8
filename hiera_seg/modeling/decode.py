"""Decode node outputs at a head's stride to scores and label maps at the image's original size.

The result is defined by this order: resize the values to the padded input, crop them to the image,
resize them to the original size (bilinear, ``align_corners=False``), score them, and decode. On
whole tensors, a large image with many nodes would need several times N x H x W floats. Because
bilinear resizing is separable and scoring is pixelwise, the same result is computed in bands of
output rows that fit into the cache. Rounding may differ in the last bits, which can only matter
where two leaves tie.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.utils.logger import log_first_n
from torch import Tensor

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.scores import (
    DECODE_VARIANTS,
    LEAF_VARIANTS,
    NodeOutput,
    NodeScores,
    check_variant,
    mean_scores,
    node_scores,
)
from hiera_seg.losses import declared_decoding
from hiera_seg.modeling.label_maps import decode_by_family, decodes_by_family
from hiera_seg.modeling.options import DecodeOptions
from hiera_seg.modeling.paths import (
    cut_path,
    direct_labels,
    greedy_path,
    label_scores,
    path_labels,
)
from hiera_seg.modeling.resize import (
    Resize,
    resize_columns,
    resize_row_range,
    resize_rows,
    row_resizes,
    rows_needed,
)

DECODE_KEY = "MODEL.HIERA_SEG.TEST.DECODE"

# Number of values of a band, N x rows x width, that fits a CPU's cache, or that fills a GPU.
_BAND_VALUES_CPU = 1 << 19
_BAND_VALUES_GPU = 1 << 25

Size = tuple[int, int]


class NodeView(NamedTuple):
    """Node outputs of an image, or of a resized or mirrored copy of it.

    Attributes:
        output: of one image, values (1, N, h, w) or (N, h, w) covering the padded input; or an
            object with ``kind`` and ``rows``, which computes them while they are decoded, such as
            :class:`~hiera_seg.inference.sliding.WindowedOutput`.
        padded_size: (height, width) of the network's input.
        image_size: (height, width) of the part of it that the image fills, from the top left.
        mirrored: whether the network's input was mirrored.
        swap: of a mirrored view, int64 (N,): the channel that scores each node ("left arm" is
            scored by the channel of "right arm"); None: each node is scored by its own channel.
    """

    output: NodeOutput
    padded_size: Size
    image_size: Size
    mirrored: bool = False
    swap: Tensor | None = None


class NodeRows:
    """Rows of the node values of a view, which decoding reads from the top to the bottom.

    Attributes:
        shape: (N, h, w) of all values.
        like: a tensor of their dtype and device.
    """

    def __init__(self, values: Tensor):
        self.shape, self.like = values.shape, values

    def take(self, index: Tensor) -> Tensor:
        """Return the rows of an ascending `index` as (N, len(index), w)."""
        return self.like.index_select(1, index)

    def nan_count(self) -> int:
        """Return the number of positions with NaN, once all rows have been taken."""
        return int(self.like.isnan().any(0).sum())


def decode_variant(name: str, loss_names: Iterable[str], *, kind: str = "logits") -> str:
    """Resolve the config's decode variant; "auto" selects the one that the losses train.

    Args:
        name: "auto" or one of `DECODE_VARIANTS`; the value of MODEL.HIERA_SEG.TEST.DECODE.
        loss_names: names of the losses that train the model.
        kind: kind of the head's output, "logits" or "scores".

    Returns:
        One of `DECODE_VARIANTS`.

    Raises:
        ConfigError: unknown name, a variant that the kind does not allow, or "auto" with losses
            that do not declare what the logits of nodes mean (see `LossTerm.decoding`).
    """
    if name != "auto":
        try:
            check_variant(name, kind)
        except ValueError as error:
            raise ConfigError(f"{DECODE_KEY} is {name!r}: {error}, or 'auto'") from error
        return name
    if kind == "scores":
        return "path_sum"
    losses = list(loss_names)
    variant = declared_decoding(losses)
    if variant is None:
        raise ConfigError(
            f"{DECODE_KEY} is 'auto', but none of the losses {losses} declares what the logits of "
            f"nodes mean; set it to one of {DECODE_VARIANTS}, or give a loss of your own the class "
            "attribute `decoding` with one of these values"
        )
    return variant


@torch.no_grad()
def decode(
    views: Sequence[NodeView], hierarchy: Hierarchy, options: DecodeOptions, *, output_size: Size
) -> dict[str, Any]:
    """Decode the node outputs of one image to leaf scores and label maps per level.

    The values of each view are resized to the image's original size and scored there. The scores
    (probabilities, not logits) of several views are averaged per node before they are compared.

    Args:
        views: one or more views of the image, of one kind of output.
        hierarchy: the tree whose numbering the channels follow.
        options: what to compute, with a variant other than "auto".
        output_size: (height, width) H, W of the result, the image's original size.

    Returns:
        A dict, tensors on the device of the values:

        - "sem_seg": (L, H, W) float, the scores of the leaves;
        - "hiera_labels": list over levels, coarse to fine, of (H, W) integer maps of node ids;
        - "hiera_labels_direct": the same, the best node of each level by its own score;
        - "hiera_confidence": list over levels of (H, W) float32, the score of the node in
          "hiera_labels" (the score that direct labels compare);
        - "hiera_greedy_path": (H, W) the leaf at which the greedy path ends without a minimum
          confidence;
        - "hiera_greedy_path_limits": for each level but the coarsest, (H, W) float32: the largest
          minimum confidence with which the greedy path reaches that level;
        - "hiera_nan_count": int, the number of positions of the values that hold NaN; absent if 0.

        Label maps are int64; if only labels are returned, they have the smallest unsigned type that
        holds all node ids, to save memory. Among equal scores the lowest id wins. Where one of the
        compared scores is NaN, all of them count as equal, and no minimum confidence is reached;
        the first image with NaN causes a warning.

    Raises:
        ValueError: sizes that do not fit each other, values that do not fit the tree, or a variant
            that does not fit the kind of output.
    """
    for view in views:
        check_variant(options.variant, view.output.kind)
        limits = zip(view.image_size, view.padded_size, output_size, strict=True)
        if not all(0 < image <= padded and output > 0 for image, padded, output in limits):
            raise ValueError(
                f"image_size {tuple(view.image_size)} must be within padded_size "
                f"{tuple(view.padded_size)}, and all sizes and output_size {tuple(output_size)} "
                "positive"
            )
    sources = [_node_rows(view.output, hierarchy) for view in views]
    height, width = output_size
    variant = options.variant
    device = sources[0].like.device
    label_type = label_dtype(hierarchy) if options.output == "labels" else torch.int64
    rows_of = [
        row_resizes(source.shape[1], view.padded_size[0], view.image_size[0], height, source.like)
        for source, view in zip(sources, views, strict=True)
    ]
    budget = _BAND_VALUES_CPU if device.type == "cpu" else _BAND_VALUES_GPU
    channels = hierarchy.num_leaves if variant in LEAF_VARIANTS else hierarchy.num_nodes
    rows = max(1, budget // (channels * width))
    view, source = views[0], sources[0]
    labels_alone = options == options.labels_only() and options.min_confidence is None
    if labels_alone and len(views) == 1 and not view.mirrored and type(source) is NodeRows:
        if decodes_by_family(source.like, variant, hierarchy):
            labels = decode_by_family(
                source.like,
                rows_of[0],
                (view.padded_size[1], view.image_size[1], width),
                height,
                hierarchy,
                sigmoid=view.output.kind == "logits",
                paths=variant == "path_sum",
                band_values=budget,
                dtype=label_type,
            )
            return {"hiera_labels": labels}
    result: dict[str, Any] = {}
    for top in range(0, height, rows):
        band = range(top, min(top + rows, height))
        scores = mean_scores(
            node_scores(_band(source, view, steps, band, width, channels), hierarchy, variant)
            for source, view, steps in zip(sources, views, rows_of, strict=True)
        )
        part = decode_scores(scores, hierarchy, options)
        result = _write_band(result, part, band, height, label_type)
    # Read last, because reading waits for the GPU
    if nan_count := sum(source.nan_count() for source in sources):
        result["hiera_nan_count"] = nan_count
        positions = sum(math.prod(source.shape[1:]) for source in sources)
        log_first_n(
            logging.WARNING,
            f"{nan_count} of {positions} positions of an image hold NaN node values: where scores "
            "are NaN the label is the lowest node id; check the weights and the input. Later "
            "images are counted without a warning.",
            name=__name__,
        )
    return result


def decode_scores(
    scores: NodeScores, hierarchy: Hierarchy, options: DecodeOptions
) -> dict[str, Any]:
    """Compute the maps that :func:`decode` returns, from scores at their size."""
    part: dict[str, Any] = {}
    with_labels, min_confidence = options.output != "scores", options.min_confidence
    ranking = None
    if options.output != "labels" or min_confidence is None:
        ranking = scores.leaf_ranking()[0]
    if options.output != "labels":
        part["sem_seg"] = scores.leaves()[0] if options.variant == "path_product" else ranking
    if options.greedy_path or (with_labels and min_confidence is not None):
        path, limits = greedy_path(scores, hierarchy)
    if with_labels:
        if min_confidence is None:
            labels = path_labels(ranking, hierarchy)
        else:
            labels = cut_path(path, limits, min_confidence)
        part["hiera_labels"] = labels
        if options.direct:
            part["hiera_labels_direct"] = direct_labels(scores, hierarchy)
        if options.confidence:
            part["hiera_confidence"] = label_scores(labels, scores, hierarchy)
    if options.greedy_path:
        part |= {"hiera_greedy_path": path[-1], "hiera_greedy_path_limits": limits}
    return part


def _write_band(whole: Any, part: Any, band: range, height: int, label_type: torch.dtype) -> Any:
    """Copy rows of maps, in dicts and lists of tensors, into those of the image and return these.

    They are created for the first band, for which `whole` is None.
    """
    options = (band, height, label_type)
    if isinstance(part, dict):
        whole = whole or {}
        return {key: _write_band(whole.get(key), value, *options) for key, value in part.items()}
    if isinstance(part, list):
        whole = whole or [None] * len(part)
        return [_write_band(a, b, *options) for a, b in zip(whole, part, strict=True)]
    if whole is None:
        size = (*part.shape[:-2], height, part.shape[-1])
        whole = part.new_empty(size, dtype=None if part.is_floating_point() else label_type)
    whole[..., band.start : band.stop, :] = part
    return whole


def label_dtype(hierarchy: Hierarchy) -> torch.dtype:
    """Return the smallest unsigned type that holds all node ids of a tree."""
    if hierarchy.num_nodes <= 1 << 8:
        return torch.uint8
    # torch.uint16 is new in torch 2.3
    return getattr(torch, "uint16", torch.int32) if hierarchy.num_nodes <= 1 << 16 else torch.int32


def _band(
    source: NodeRows, view: NodeView, steps: list[Resize], rows: range, width: int, channels: int
) -> NodeOutput:
    """Return rows of the first channels of a view at its final size, with mirroring undone."""
    widths = view.padded_size[1], view.image_size[1], width
    device = source.like.device

    def take(index: Tensor) -> Tensor:
        return source.take(index)[:channels]

    needed = rows_needed(steps, rows) if device.type == "cpu" else None
    if needed and len(needed) <= len(rows):  # columns first, since they are fewer
        wide = resize_columns(take(torch.arange(needed.start, needed.stop)), *widths)
        wide = resize_row_range(wide, steps, rows, needed.start)
    else:
        index = torch.arange(rows.start, rows.stop, device=device)
        wide = resize_columns(resize_rows(take, steps, index), *widths)
    if view.mirrored:
        wide = wide.flip(-1)
        if view.swap is not None:
            wide = wide[view.swap[:channels]]
    return NodeOutput(wide[None], view.output.kind)


def _node_rows(node_output: Any, hierarchy: Hierarchy) -> NodeRows:
    """Return the rows of an output, in float32 or float64."""
    if not isinstance(node_output, NodeOutput):
        return node_output.rows()
    values = node_output.values
    if values.dim() == 4 and values.shape[0] == 1:
        values = values[0]
    if values.dim() != 3 or values.shape[0] != hierarchy.num_nodes or 0 in values.shape:
        raise ValueError(
            f"node values of one image have shape {tuple(node_output.values.shape)}; tree "
            f"{hierarchy.name!r} needs ({hierarchy.num_nodes}, h, w), one channel per node"
        )
    return NodeRows(values if values.dtype == torch.float64 else values.float())
