"""Count pixels by predicted and true path, once per image.

The merged matrices of all levels and all distances in the tree follow from one matrix of (predicted
node, true node). Direct labels add one matrix per level and a count of the pixels whose levels are
consistent. An image is therefore counted by one histogram over all its label maps together if the
tree is small enough, by several histograms otherwise; levels are separated at the end.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.messages import listing
from hiera_seg.metrics.cells import Cells
from hiera_seg.metrics.checks import check_shapes

# Label maps are counted together if their joint histogram has at most this many cells. A larger
# histogram does not fit the cache and costs more than counting the maps separately.
_MAX_JOINT_CELLS = 1 << 17
# If a histogram of one map and the ground truth has more cells, runs of equal pixels are counted.
_MAX_DENSE_CELLS = 1 << 20
# Number of cells of single images that are collected before they are summed.
_MAX_PENDING = 1 << 18
# Number of pixels that are processed at a time, for which the temporaries fit the cache.
_PIXELS_AT_A_TIME = 1 << 18
# Void has an entry in the lookup table of ids; a larger ignore label is replaced.
_MAX_TABLE_ID = 65535


class PathCounts:
    """Counts of one evaluation; those of several processes are added up by :meth:`merge`.

    Attributes:
        hierarchy: the tree with N nodes and L leaves.
        ignore_label: the value of void pixels in the ground truth, outside [0, N).
        consistent: number of non-void pixels whose direct labels form one path.
        num_images: number of images counted.
        num_direct_images: number of images counted that had direct labels.
    """

    def __init__(self, hierarchy: Hierarchy, ignore_label: int = 255) -> None:
        _check_ignore_label(hierarchy, ignore_label)
        self.hierarchy = hierarchy
        self.ignore_label = ignore_label
        self.consistent = self.num_images = self.num_direct_images = 0
        # For the labels, and for the direct labels of each level: the sum, then cells to be added.
        nothing = Cells.empty((hierarchy.num_nodes + 1, hierarchy.num_nodes))
        self._cells = [[nothing] for _ in range(hierarchy.num_levels + 1)]

    @property
    def nodes(self) -> Cells:
        """(N + 1, N), pixels by [predicted node, true node], without void pixels.

        Row N holds pixels without a predicted node.
        """
        return self._total(0)

    @property
    def direct(self) -> tuple[Cells, ...]:
        """The same of the direct labels of each level."""
        return tuple(self._total(1 + level) for level in range(self.hierarchy.num_levels))

    def _total(self, index: int) -> Cells:
        if len(self._cells[index]) > 1:
            self._cells[index] = [Cells.total(self._cells[index])]
        return self._cells[index][0]

    def add(
        self,
        labels: np.ndarray,
        truth: np.ndarray,
        direct: Sequence[np.ndarray] | None = None,
        unpredicted: np.ndarray | None = None,
    ) -> Cells:
        """Count one image.

        Args:
            labels, truth, direct, unpredicted: see :func:`count_image`.

        Returns:
            The image's part of :attr:`nodes`.

        Raises:
            ValueError: see :func:`count_image`.
        """
        nodes, direct_cells, consistent = count_image(
            labels, truth, self.hierarchy,
            ignore_label=self.ignore_label, direct=direct, unpredicted=unpredicted,
        )  # fmt: skip
        self._add(nodes, direct_cells, (consistent, 1, int(direct is not None)))
        return nodes

    def merge(self, other: "PathCounts") -> None:
        """Add the counts of other images in the same tree."""
        numbers = (other.consistent, other.num_images, other.num_direct_images)
        self._add(other.nodes, other.direct, numbers)

    def _add(self, nodes: Cells, direct: Sequence[Cells], numbers: tuple[int, int, int]) -> None:
        for index, cells in enumerate((nodes, *direct)):
            parts = self._cells[index]
            parts.append(cells)
            # A sum needs a sort; waiting until the number of cells has doubled limits its cost.
            if sum(len(part.rows) for part in parts[1:]) > max(_MAX_PENDING, len(parts[0].rows)):
                self._total(index)
        self.consistent += numbers[0]
        self.num_images += numbers[1]
        self.num_direct_images += numbers[2]


def count_image(
    labels: np.ndarray,
    truth: np.ndarray,
    hierarchy: Hierarchy,
    *,
    ignore_label: int = 255,
    direct: Sequence[np.ndarray] | None = None,
    unpredicted: np.ndarray | None = None,
) -> tuple[Cells, list[Cells], int]:
    """Count the pixels of one image by predicted and true node.

    Args:
        labels: integers (H, W), the predicted node of each pixel: a leaf, or an inner node if the
            prediction stops early (safe depth).
        truth: integers (H, W), the true node, an inner node if no more is known, or
            ``ignore_label`` for void.
        hierarchy: the tree with N nodes.
        ignore_label: the value of void, outside [0, N).
        direct: one (H, W) map per level, coarse to fine, of node ids among ``level_nodes(level)``.
        unpredicted: bool (H, W), pixels without a prediction, which are wrong at every level
            whatever `labels` holds there.

    Returns:
        ``(nodes, direct, consistent)``: cells (N + 1, N) by [predicted node, true node], where row
        N holds pixels without a prediction; the same of the direct labels of each level, empty
        without ``direct``; and the number of pixels whose direct labels form one path. Void is not
        counted.

    Raises:
        ValueError: a map has another shape than ``truth``, is not of integers, or holds an id that
            is not allowed in it; or there is not one direct map per level.
    """
    _check_ignore_label(hierarchy, ignore_label)
    if direct is not None and len(direct) != hierarchy.num_levels:
        raise ValueError(
            f"{len(direct)} maps of direct labels for the {hierarchy.num_levels} levels of tree "
            f"{hierarchy.name!r}; pass one per level, coarse to fine"
        )
    num_nodes = hierarchy.num_nodes
    if not 0 <= ignore_label <= _MAX_TABLE_ID:
        truth, ignore_label = _with_void_at_top(truth, ignore_label)
    truth_map = _LabelMap("ground truth", truth, np.arange(num_nodes), void=ignore_label)
    maps = [_LabelMap("prediction", labels, np.arange(num_nodes))]
    for level, values in zip(hierarchy.level_names, direct or (), strict=False):
        name = f"direct labels of level {level!r}"
        maps.append(_LabelMap(name, values, hierarchy.level_nodes(level)))
    for label_map in maps:
        check_shapes([label_map], truth_map, f"the {label_map.name}")
    if unpredicted is not None:
        check_shapes([unpredicted], truth_map, "the map of unpredicted pixels")
    if unpredicted is not None and unpredicted.any():
        labels = np.where(unpredicted, num_nodes, np.asarray(labels).astype(np.int64))
        maps[0] = _LabelMap("prediction", labels, np.arange(num_nodes + 1))

    found: list[Cells] = []
    consistent = None
    for group in _groups(maps, truth_map.size):
        if group[0].size * truth_map.size > _MAX_DENSE_CELLS:
            found.append(_count_sparsely(group[0], truth_map, num_nodes))
            continue
        joint = _joint_histogram([*group, truth_map])[..., :num_nodes]
        axes = range(len(group))
        for kept, label_map in enumerate(group):
            part = Cells.of(joint.sum(axis=tuple(a for a in axes if a != kept)))
            rows = label_map.ids[part.rows]
            found.append(Cells((num_nodes + 1, num_nodes), rows, part.columns, part.counts))
        if direct and group[-len(direct) :] == maps[1:]:
            paths = [hierarchy.leaf_to_level(level) for level in range(hierarchy.num_levels)]
            consistent = int(joint[(..., *paths, slice(None))].sum())
    if direct and consistent is None:
        consistent = _count_consistent(maps[1:], truth_map, hierarchy)
    return found[0], found[1:], consistent or 0


def level_cells(nodes: Cells | np.ndarray, hierarchy: Hierarchy, level: int | str) -> Cells:
    """Compute the cells of a level from those of nodes.

    Args:
        nodes: (N, N) or (N + 1, N) by [predicted node, true node], of labels or direct labels.
        hierarchy: the tree with N nodes.
        level: index or name of the level with K nodes.

    Returns:
        (K + 1, K) by [predicted, true class of the level], in the order of ``level_nodes(level)``.
        The last row counts predictions that stop above the level, and pixels without a prediction:
        false negatives of their true class and no false positives. Pixels whose true node does not
        reach the level are not counted.
    """
    index = index_at_level(hierarchy, level)
    size = len(hierarchy.level_nodes(level))
    return Cells.of(nodes).relabel(index, index, (size + 1, size))


def collapse_nodes(nodes: Cells | np.ndarray, hierarchy: Hierarchy, level: int | str) -> np.ndarray:
    """Return :func:`level_cells` as an int64 matrix (K + 1, K)."""
    return level_cells(nodes, hierarchy, level).matrix


def index_at_level(hierarchy: Hierarchy, level: int | str) -> np.ndarray:
    """Return for each node the index in level_nodes(level) of its node there; K if none.

    Returns:
        int64 (N + 1,); the last entry is for pixels without a predicted node.
    """
    nodes = hierarchy.level_nodes(level)
    index = np.full(hierarchy.num_nodes + 1, len(nodes))
    index[nodes] = np.arange(len(nodes))
    # -1, for labels that do not reach the level, selects the last entry, which is K
    return index[np.append(hierarchy.level_ancestor[hierarchy.level_index(level)], -1)]


class _LabelMap:
    """A label map and the bins 0 .. size-1 of its ids along one axis of a histogram."""

    def __init__(
        self, name: str, values: np.ndarray, ids: np.ndarray, void: int | None = None
    ) -> None:
        self.name, self.ids, self.void = name, np.asarray(ids), void
        values = np.asarray(values)
        if values.dtype.kind not in "iu":
            raise ValueError(f"the {name} has dtype {values.dtype}; it must be of integers")
        if values.dtype == np.uint64:
            values = values.view(np.int64)  # numpy 1 does not index with uint64
        self.shape, self.values = values.shape, np.ascontiguousarray(values).reshape(-1)
        self.size = len(self.ids) + (void is not None)
        self.low = int(self.ids.min())
        self.high = max(int(self.ids.max()), -1 if void is None else void)
        self.is_range = self.high - self.low + 1 == self.size  # then bin = id - low

    def cells(self, part: slice, stride: int, table: np.ndarray | None) -> np.ndarray:
        """Return ``table[id]``, or ``id * stride`` without a table."""
        values = self.values[part]
        if self.low == 0:  # one pass: read as unsigned, a negative id is a large one
            in_range = values.view(f"u{values.itemsize}").max() <= self.high
        else:
            in_range = self.low <= values.min() and values.max() <= self.high
        if not in_range:
            self.check()
        if table is not None:
            return np.take(table, values)
        return np.multiply(values, stride, dtype=np.int64)

    def table(self, stride: int, beyond: int) -> np.ndarray:
        """Return the table from id to bin times ``stride``; ``beyond`` for ids without a bin."""
        table = np.full(self.high + 1, beyond)
        table[self.ids] = np.arange(len(self.ids)) * stride
        if self.void is not None:
            table[self.void] = len(self.ids) * stride
        return table

    def check(self) -> None:
        """Raise ValueError with the ids that have no bin, if there are any."""
        allowed = self.ids if self.void is None else np.append(self.ids, self.void)
        found = np.setdiff1d(self.values, allowed)
        if len(found) == 0:
            return
        low, high = int(self.ids.min()), int(self.ids.max())
        which = "the" if len(self.ids) == high - low + 1 else f"{len(self.ids)} of the"
        void = "" if self.void is None else f", and {self.void} for void"
        raise ValueError(
            f"the {self.name} holds {listing(found.tolist(), 5)}; allowed are {which} node ids "
            f"{low} to {high}{void}"
        )


def _groups(maps: Sequence[_LabelMap], truth_size: int) -> Iterator[list[_LabelMap]]:
    """Split maps into groups that are counted together, the direct ones in one if possible."""
    cells = np.cumprod([label_map.size for label_map in maps], dtype=float) * truth_size
    if cells[-1] <= _MAX_JOINT_CELLS:
        yield list(maps)
        return
    yield list(maps[:1])
    if len(maps) > 1 and cells[-1] / maps[0].size <= _MAX_JOINT_CELLS:
        yield list(maps[1:])
    else:
        yield from ([label_map] for label_map in maps[1:])


def _joint_histogram(maps: Sequence[_LabelMap]) -> np.ndarray:
    """Count pixels by the bins of all maps: int64, one axis per map.

    Raises:
        ValueError: a map holds an id without a bin.
    """
    shape = [label_map.size for label_map in maps]
    num_cells = int(np.prod(shape))
    histogram = np.zeros(num_cells, np.int64)
    for index in _cell_numbers(maps, max(_PIXELS_AT_A_TIME, 2 * num_cells)):
        counts = np.bincount(index, minlength=num_cells)
        if len(counts) != num_cells:
            _raise_unknown(maps)
        histogram += counts
    return histogram.reshape(shape)


def _count_sparsely(label_map: _LabelMap, truth: _LabelMap, num_nodes: int) -> Cells:
    """Count pixels by predicted and true node without a table of all pairs.

    Raises:
        ValueError: a map holds an id without a bin.
    """
    shape = (num_nodes + 1, num_nodes)
    parts = [Cells.empty(shape)]
    for index in _cell_numbers([label_map, truth], _PIXELS_AT_A_TIME):
        starts = np.flatnonzero(np.diff(index, prepend=-1))  # labels come in runs
        values, lengths = index[starts], np.diff(starts, append=len(index))
        if len(values) and values.max() >= label_map.size * truth.size:
            _raise_unknown([label_map, truth])
        bins, columns = np.divmod(values, truth.size)
        known = columns < num_nodes
        parts.append(Cells(shape, label_map.ids[bins[known]], columns[known], lengths[known]))
    return Cells.total(parts)


def _cell_numbers(maps: Sequence[_LabelMap], num_pixels: int) -> Iterator[np.ndarray]:
    """Yield the number of the cell of each pixel in the joint histogram, some pixels at a time.

    A number beyond the histogram marks a pixel whose ids have no bin; an id out of range raises
    ValueError.
    """
    shape = [label_map.size for label_map in maps]
    num_cells = int(np.prod(shape))
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    # Bins of ids that are one range are computed, others are looked up. The ground truth is always
    # looked up; its table also subtracts the lowest ids of the other maps.
    lowest = 0
    tables: list[np.ndarray | None] = []
    for label_map, stride in zip(maps[:-1], strides, strict=False):
        linear = label_map.is_range
        tables.append(None if linear else label_map.table(stride, num_cells))
        lowest += label_map.low * stride if linear else 0
    tables.append(maps[-1].table(1, num_cells) - lowest)
    for part in _slices(maps[0].values.size, num_pixels):
        index = None
        for label_map, stride, table in zip(maps, strides, tables, strict=True):
            cells = label_map.cells(part, stride, table)
            index = cells if index is None else np.add(index, cells, out=index)
        yield index


def _raise_unknown(maps: Iterable[_LabelMap]) -> None:
    for label_map in maps:
        label_map.check()


def _count_consistent(direct: Sequence[_LabelMap], truth: _LabelMap, hierarchy: Hierarchy) -> int:
    """Count the non-void pixels whose direct labels are the path of their direct leaf."""
    total = 0
    for part in _slices(truth.values.size, _PIXELS_AT_A_TIME):
        same = truth.values[part] != truth.void
        leaf = direct[-1].values[part]
        for level, label_map in enumerate(direct[:-1]):
            same &= hierarchy.level_ancestor[level][leaf] == label_map.values[part]
        total += int(np.count_nonzero(same))
    return total


def _with_void_at_top(truth: np.ndarray, ignore_label: int) -> tuple[np.ndarray, int]:
    """Replace an ignore label such as -1 by the largest table entry, which must not occur."""
    truth = np.asarray(truth).astype(np.int64)  # int16 cannot hold the new value
    if (truth == _MAX_TABLE_ID).any():
        raise ValueError(f"the ground truth holds {_MAX_TABLE_ID}, which is not a node id")
    return np.where(truth == ignore_label, _MAX_TABLE_ID, truth), _MAX_TABLE_ID


def _slices(size: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, size, step))


def _check_ignore_label(hierarchy: Hierarchy, ignore_label: int) -> None:
    if 0 <= ignore_label < hierarchy.num_nodes:
        raise ValueError(
            f"ignore_label {ignore_label} is a node id of tree {hierarchy.name!r}; "
            f"choose a value outside 0 .. {hierarchy.num_nodes - 1}"
        )
