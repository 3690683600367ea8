"""Define the tree-triplet loss, by which distances of embeddings follow those in the tree."""

import math
import numbers
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.pixel_embeddings import PixelEmbeddings
from hiera_seg.layers.tree_index import NearestLeaves, TreeIndex
from hiera_seg.losses.checks import check_embeddings, check_number
from hiera_seg.losses.fused.tiles import loss_dtype
from hiera_seg.losses.labels import label_index
from hiera_seg.losses.registry import HIERA_LOSSES
from hiera_seg.losses.term import LossTerm, runs_eagerly

FINAL_WEIGHT = 0.5
# Tables of all pairs of leaves are kept for trees up to this size.
_MAX_LEAVES = 1024


class Triplets(NamedTuple):
    """S drawn triplets; those with `weight` 0 are placeholders.

    Attributes:
        anchor, positive, negative: int64 (S,), pixels as positions in labels.flatten().
        weight: float32 (S,), 1 / (anchors of the class x classes that have a triplet). Sums to 1,
            or to 0 where there is no triplet.
        gap: float32 (S,), psi(anchor, negative) - psi(anchor, positive) in edges, above 0.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    weight: Tensor
    gap: Tensor


def sample_triplets(
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    samples_per_class: int = 64,
    generator: torch.Generator | None = None,
    ignore_label: int = 255,
) -> Triplets:
    """Draw anchors, and for each anchor one positive and one negative.

    The pool holds up to K = `samples_per_class` pixels (two if K is 1) of each leaf present, drawn
    without replacement. The first K of a class are its anchors. The triplet of an anchor is drawn
    uniformly from all pairs (i+, i-) of other pixels in the pool with psi(i, i+) < psi(i, i-). If
    the labels hold a triplet for an anchor, one is found; positives may be of the anchor's class.

    The number of random values and the shapes of all tensors depend only on the shape of the
    labels, and the host never waits for the device. (In a tree of more than 1024 leaves they also
    depend on the number of leaves present, for which the host waits.) With a generator on the CPU
    the triplets are the same on any device.

    Args:
        labels: (B, h, w) int64 node ids; only pixels of leaves are drawn.
        hierarchy: the tree.
        samples_per_class: K, 1 or more.
        generator: random generator; None for PyTorch's default on the device of the labels.
        ignore_label: the value of void in `labels`.

    Returns:
        `Triplets`, min(L x max(K, 2), B x h x w) of them, L being the leaves of the tree, or those
        that are present.
    """
    device = labels.device
    label, table = _classes(label_index(labels, hierarchy, ignore_label).flatten(), hierarchy)
    leaves = len(table.leaf)
    # In float64 values are practically never equal; the order of equal ones depends on the device.
    source = device if generator is None else generator.device
    draws = torch.rand(2, len(label), dtype=torch.float64, generator=generator, device=source)
    keys, picks = draws.to(device, non_blocking=True)

    # The pool: pixels sorted by class, within a class at random; the first few of each class.
    order = (label + keys).argsort()
    label = label[order]
    counts = torch.zeros(leaves + 1, dtype=torch.int64, device=device)
    counts.scatter_add_(0, label, torch.ones_like(label))
    rank = torch.arange(len(label), device=device) - (counts.cumsum(0) - counts)[label]
    per_class = max(samples_per_class, 2)
    size = min(leaves * per_class, len(label))
    pooled = (rank < per_class) & (label < leaves)
    place = torch.where(pooled, pooled.cumsum(0) - 1, size)

    def pack(values: Tensor, filler: int) -> Tensor:
        packed = torch.full((size + 1,), filler, dtype=torch.int64, device=device)
        return packed.scatter_(0, place, torch.where(pooled, values, filler))[:size]

    pixel, label, rank = pack(order, 0), pack(label, leaves), pack(rank, 0)
    counts = counts[:leaves].clamp(max=per_class)
    starts = counts.cumsum(0) - counts

    # The pairs of each anchor are numbered, and a random number selects one. Classes are ordered by
    # distance from the anchor's class; the anchor itself is excluded from its class.
    others = counts[table.leaf]
    others[:, 0] = (others[:, 0] - 1).clamp(min=0)
    nearer = (others.cumsum(1) - others).gather(1, table.first)  # positives of each negative
    pairs = (others * nearer).cumsum(1)
    row = label.clamp(max=leaves - 1)
    num_pairs = pairs[:, -1][row]
    valid = (label < leaves) & (rank < samples_per_class) & (num_pairs > 0)

    pair = (picks[:size] * num_pairs).long().clamp(max=num_pairs - 1).clamp(min=0)
    negative_place = _place_of(pair, pairs, row)
    before = (pairs - others * nearer)[row, negative_place]
    num_positives = nearer[row, negative_place].clamp(min=1)
    negative_rank = (pair - before).div(num_positives, rounding_mode="floor")
    positive_number = (pair - before) % num_positives
    reach = others.cumsum(1)
    positive_place = _place_of(positive_number, reach, row)
    positive_rank = positive_number - (reach - others)[row, positive_place]
    positive_rank += (positive_place == 0) & (positive_rank >= rank)  # skip the anchor

    def member(where: Tensor, number: Tensor) -> Tensor:
        return pixel[torch.where(valid, starts[table.leaf[row, where]] + number, 0)]

    anchors = torch.zeros(leaves, dtype=torch.float32, device=device)
    anchors.scatter_add_(0, row, valid.float())
    classes = (anchors > 0).sum().clamp(min=1)
    return Triplets(
        anchor=pixel,
        positive=member(positive_place, positive_rank),
        negative=member(negative_place, negative_rank),
        weight=valid / (anchors[row].clamp(min=1) * classes),
        gap=table.distance[row, negative_place] - table.distance[row, positive_place],
    )


def _classes(label: Tensor, hierarchy: Hierarchy) -> tuple[Tensor, NearestLeaves]:
    """Number the leaves that triplets are drawn from: all, or in a large tree those present.

    Args:
        label: int64 (P,), N for void.

    Returns:
        int64 (P,) in [0, K], K for pixels without a leaf, and the tables of these K leaves.
    """
    leaves, tree = hierarchy.num_leaves, TreeIndex.of(hierarchy, label.device)
    label = label.clamp(max=leaves)
    if leaves <= _MAX_LEAVES:
        return label, tree.all_nearest_leaves
    present = label.unique()
    present = present[present < leaves] if (present < leaves).any() else present.new_zeros(1)
    position = torch.full((leaves + 1,), len(present), dtype=torch.int64, device=label.device)
    position[present] = torch.arange(len(present), device=label.device)
    return position[label], tree.nearest_leaves(present)


def _place_of(number: Tensor, cumulative: Tensor, row: Tensor) -> Tensor:
    """Return the first column of `cumulative` above each number, in the row of that number.

    Args:
        number: int64 (S,), below the last value of its row.
        cumulative: int64 (L, L), not decreasing along rows.
        row: int64 (S,).
    """
    # Rows are concatenated, so that one search serves all samples without copying a row for each.
    leaves = len(cumulative)
    stride = cumulative[:, -1].max() + 1
    offsets = torch.arange(leaves, device=row.device) * stride
    flat = (cumulative + offsets[:, None]).flatten()
    found = torch.searchsorted(flat, number + offsets[row], right=True) - row * leaves
    return found.clamp(0, leaves - 1)


@runs_eagerly
def tree_triplet_loss(
    embeddings: Tensor | PixelEmbeddings,
    labels: Tensor,
    hierarchy: Hierarchy,
    *,
    margin_eps: float = 0.1,
    margin: float | None = None,
    samples_per_class: int = 64,
    generator: torch.Generator | None = None,
    ignore_label: int = 255,
) -> Tensor:
    """Compute the tree-triplet loss (HSSN, arXiv 2203.14335, eq. 7 and 8) of embeddings.

    Embeddings are L2-normalised. With ``<i, j> = (1 - cos(i, j)) / 2`` and psi the number of edges
    between two classes in the tree, a triplet with ``psi(i, i+) < psi(i, i-)`` costs::

        max(<i, i+> - <i, i-> + m, 0),   m = margin_eps + 0.5 (psi(i, i-) - psi(i, i+)) / (2 D)

    where D is ``hierarchy.height``. The loss is the mean over the anchors of each class, then over
    the classes that have a triplet. See `sample_triplets` for how triplets are drawn.

    Args:
        embeddings: (B, D, h, w) float, any scale; or `PixelEmbeddings`, which are computed at the
            sampled pixels alone. Half precision is computed in float32.
        labels: (B, H, W) int64 node ids of any size, read at the embeddings' grid by nearest
            neighbour; only pixels labelled with a leaf take part.
        hierarchy: the tree.
        margin_eps: constant part of the margin.
        margin: a constant that replaces m; None or a negative number to use m.
        samples_per_class: maximum number of anchors of each leaf present.
        generator: random generator; None for PyTorch's default.
        ignore_label: the value of void in `labels`.

    Returns:
        Scalar, float32 (float64 for float64 embeddings); 0 with a gradient path if there is no
        triplet. The weight of the schedule (`triplet_weight`) is not applied.

    Raises:
        ValueError: options, shapes or dtypes that do not fit, or a label that is neither a node id
            nor `ignore_label` (on CUDA a device assertion; see `label_index`).
    """
    check_number("margin_eps", margin_eps)
    if margin is not None:
        check_number("margin", margin)
    if not isinstance(samples_per_class, numbers.Integral) or samples_per_class < 1:
        raise ValueError(
            f"samples_per_class must be a whole number, 1 or more, not {samples_per_class!r}"
        )
    maps = embeddings.features if isinstance(embeddings, PixelEmbeddings) else embeddings
    check_embeddings(maps, labels)
    if maps.numel() == 0 or labels.numel() == 0:
        return maps[:0].to(loss_dtype(maps)).sum()
    if labels.shape[1:] != maps.shape[2:]:
        label_index(labels, hierarchy, ignore_label)  # checks the labels that are not read too
        labels = _resize_labels(labels, maps.shape[2:])
    triplets = sample_triplets(
        labels,
        hierarchy,
        samples_per_class=samples_per_class,
        generator=generator,
        ignore_label=ignore_label,
    )
    # One call: the backward of each indexing call fills a gradient of the size of the whole map.
    pixels = torch.cat([triplets.anchor, triplets.positive, triplets.negative])
    leaves = hierarchy.num_leaves
    if pixels.device.type == "cpu":
        # Each pixel is read once: if several threads added gradients to the same pixel, rounding
        # would depend on their order, and runs would not be reproducible.
        pixels, reading = pixels.unique(return_inverse=True)
        vectors = _unit_vectors(embeddings, labels, pixels, leaves).index_select(0, reading)
    else:
        vectors = _unit_vectors(embeddings, labels, pixels, leaves)
    anchor, positive, negative = vectors.chunk(3)
    # <i, i+> - <i, i-> in one product
    difference = (anchor * (negative - positive)).sum(1) / 2
    if margin is None or margin < 0:
        needed = margin_eps + 0.5 * triplets.gap / (2 * hierarchy.height)
    else:
        needed = margin
    return ((difference + needed).relu() * triplets.weight).sum()


def _resize_labels(labels: Tensor, size: torch.Size) -> Tensor:
    """Resize labels by nearest neighbour as F.interpolate does, which has no integer version.

    F.interpolate is applied to row and column indices; it would round large ignore labels.
    """

    def places(old: int, new: int) -> Tensor:
        numbers = torch.arange(old, dtype=torch.float32, device=labels.device)
        return F.interpolate(numbers[None, None], size=new, mode="nearest")[0, 0].long()

    rows, columns = (places(*sizes) for sizes in zip(labels.shape[1:], size, strict=True))
    return labels.long()[:, rows[:, None], columns]


def _unit_vectors(
    embeddings: Tensor | PixelEmbeddings, labels: Tensor, pixel: Tensor, num_leaves: int
) -> Tensor:
    """Return the L2-normalised embeddings (S, D) of some pixels, in float32 or float64.

    Only these are normalised, not the whole map. A zero vector stays zero and gets no gradient.
    The embedding of a pixel without a leaf, which may be NaN, is replaced by zeros: only triplets
    of weight 0 read it.
    """
    height, width = labels.shape[1:]
    image, position = pixel // (height * width), pixel % (height * width)
    row, column = position // width, position % width
    if isinstance(embeddings, PixelEmbeddings) and len(pixel) >= labels.numel():
        embeddings = embeddings.dense()
    if isinstance(embeddings, PixelEmbeddings):
        vectors = embeddings.at(image, row, column)
    else:
        vectors = embeddings[image, :, row, column]
    if vectors.dtype != torch.float64:
        vectors = vectors.float()
    label = labels.flatten()[pixel]
    vectors = torch.where(((label >= 0) & (label < num_leaves))[:, None], vectors, 0.0)
    # Divided by the largest component first: its square may be out of the range of float32.
    largest = vectors.detach().abs().amax(1, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1.0)
    square = vectors.square().sum(1, keepdim=True)
    return vectors * torch.where(square > 0, square, 1.0).rsqrt()


def triplet_weight(iteration: int | None, total: int) -> float:
    """Return beta(t) = 1/4 (1 + cos(pi (t - T) / T)) for t < T, then 1/2.

    Args:
        iteration: t; None for the final weight.
        total: T; 0 or less for the final weight from the start.
    """
    if iteration is None or iteration >= total:
        return FINAL_WEIGHT
    return 0.25 * (1 + math.cos(math.pi * (iteration - total) / total))


@HIERA_LOSSES.register(name="tree_triplet")
class TreeTripletLoss(LossTerm, function=tree_triplet_loss, schedule_iters=0):
    """`tree_triplet_loss` as a module; `HierarchicalLoss` applies its schedule.

    The option `schedule_iters` is the number of iterations over which the weight grows from 0 to
    1/2; 0 for a weight of 1/2 from the start.
    """

    needs = "embeddings"
    reads_pixels = True
    normalizer = None
    samples = True
    decoding = None

    def check_options(self) -> None:
        check_number("schedule_iters", self.schedule_iters)
        super().check_options()

    def weight_at(self, iteration: int | None) -> float:
        """Return the weight of the schedule; None for the final one."""
        return triplet_weight(iteration, self.schedule_iters)
