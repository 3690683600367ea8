"""Count pixels by predicted and true path, once per image.

The merged matrices of all levels and all distances in the tree follow from one matrix of (predicted
node, true node). Direct labels add one matrix per level and a count of the pixels whose levels are
consistent. An image is therefore counted by one histogram over all its label maps together if the
tree is small enough, by several histograms otherwise; levels are separated at the end.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from hiera_seg.hierarchy import Hierarchy

# Label maps are counted together if their joint histogram has at most this many cells. A larger
# histogram does not fit the cache and costs more than counting the maps separately.
_MAX_JOINT_CELLS = 1 << 17
# Pixels whose cell numbers are computed at a time, so that temporaries fit the cache.
_PIXELS_AT_A_TIME = 1 << 18
# Void has an entry in the lookup table of ids; a larger ignore label is replaced.
_MAX_TABLE_ID = 65535


class PathCounts:
    """Counts of one evaluation in one int64 vector, which one reduction sums over processes.

    Attributes:
        hierarchy: the tree with N nodes and L leaves.
        ignore_label: the value of void pixels in the ground truth, outside [0, N).
        vector: int64 (size,), all counts; the properties are views of it. Its size depends only on
            the tree. The sum over processes may be written into it.
    """

    def __init__(self, hierarchy: Hierarchy, ignore_label: int = 255) -> None:
        _check_ignore_label(hierarchy, ignore_label)
        self.hierarchy = hierarchy
        self.ignore_label = ignore_label
        n = hierarchy.num_nodes
        self._shapes = [(n, n)]
        self._shapes += [(len(hierarchy.level_nodes(i)), n) for i in range(hierarchy.num_levels)]
        self._shapes.append((1, n))
        self._ends = np.cumsum([rows * columns for rows, columns in self._shapes])
        self.vector = np.zeros(int(self._ends[-1]) + 3, np.int64)

    def _matrix(self, index: int) -> np.ndarray:
        rows, columns = self._shapes[index]
        end = self._ends[index]
        return self.vector[end - rows * columns : end].reshape(rows, columns)

    @property
    def nodes(self) -> np.ndarray:
        """int64 (N, N), pixels by [predicted node, true node], without void pixels."""
        return self._matrix(0)

    @property
    def direct(self) -> tuple[np.ndarray, ...]:
        """For each level int64 (K, N), pixels by [index into level_nodes(level), true node]."""
        return tuple(self._matrix(1 + level) for level in range(self.hierarchy.num_levels))

    @property
    def unpredicted(self) -> np.ndarray:
        """int64 (N,), pixels without a predicted node by their true node."""
        return self._matrix(len(self._shapes) - 1)[0]

    @property
    def consistent(self) -> int:
        """Number of non-void pixels whose direct labels form one path."""
        return int(self.vector[-3])

    @property
    def num_images(self) -> int:
        """Number of images counted."""
        return int(self.vector[-2])

    @property
    def num_direct_images(self) -> int:
        """Number of images counted that had direct labels."""
        return int(self.vector[-1])

    def add(
        self,
        labels: np.ndarray,
        truth: np.ndarray,
        direct: Sequence[np.ndarray] | None = None,
        unpredicted: np.ndarray | None = None,
    ) -> None:
        """Count one image.

        Args:
            labels, truth, direct: see :func:`count_image`.
            unpredicted: bool (H, W), pixels whose predicted node is void. They are wrong at every
                level, whatever `labels` holds there.

        Raises:
            ValueError: see :func:`count_image`.
        """
        if unpredicted is not None and unpredicted.shape != truth.shape:
            raise ValueError(
                f"the prediction has the size {_size(unpredicted.shape)}, the ground truth "
                f"{_size(truth.shape)}"
            )
        if unpredicted is not None and unpredicted.any():
            missed = truth[unpredicted & (truth != self.ignore_label)]
            self.unpredicted[:] += np.bincount(missed, minlength=self.hierarchy.num_nodes)
            truth = np.where(unpredicted, self.ignore_label, truth)
        nodes, direct_counts, consistent = count_image(
            labels, truth, self.hierarchy, ignore_label=self.ignore_label, direct=direct
        )
        for total, counts in zip((self.nodes, *self.direct), (nodes, *direct_counts), strict=False):
            total += counts
        self.vector[-3:] += (consistent, 1, int(direct is not None))


def count_image(
    labels: np.ndarray,
    truth: np.ndarray,
    hierarchy: Hierarchy,
    *,
    ignore_label: int = 255,
    direct: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Count the pixels of one image by predicted and true node.

    Args:
        labels: integers (H, W), the predicted node of each pixel: a leaf, or an inner node if the
            prediction stops early (safe depth).
        truth: integers (H, W), the true node, an inner node if no more is known, or
            ``ignore_label`` for void.
        hierarchy: the tree with N nodes.
        ignore_label: the value of void, outside [0, N).
        direct: one (H, W) map per level, coarse to fine, of node ids among ``level_nodes(level)``.

    Returns:
        ``(nodes, direct, consistent)``: int64 (N, N) by [predicted node, true node]; a list over
        levels of int64 (K, N) by [index into level_nodes(level), true node], empty without
        ``direct``; and the number of pixels whose direct labels form one path. Void is not counted.

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
        if label_map.shape != truth_map.shape:
            raise ValueError(
                f"the {label_map.name} has size {_size(label_map.shape)}, but the ground truth "
                f"{_size(truth_map.shape)}"
            )

    matrices, consistent = [], None
    for group in _groups(maps, num_nodes + 1):
        joint = _joint_histogram([*group, truth_map])[..., :num_nodes]
        axes = range(len(group))
        matrices += [joint.sum(axis=tuple(a for a in axes if a != kept)) for kept in axes]
        if direct and group[-len(direct) :] == maps[1:]:
            paths = [hierarchy.leaf_to_level(level) for level in range(hierarchy.num_levels)]
            consistent = int(joint[(..., *paths, slice(None))].sum())
    if direct and consistent is None:
        consistent = _count_consistent(maps[1:], truth_map, hierarchy)
    return matrices[0], matrices[1:], consistent or 0


def collapse_nodes(
    nodes: np.ndarray,
    hierarchy: Hierarchy,
    level: int | str,
    unpredicted: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the merged matrix of a level from the matrix of nodes.

    Args:
        nodes: int64 (N, N) by [predicted node, true node].
        hierarchy: the tree with N nodes.
        level: index or name of the level with K nodes.
        unpredicted: int64 (N,), pixels without a predicted node by their true node.

    Returns:
        int64 (K + 1, K) by [predicted, true class of the level], in the order of
        ``level_nodes(level)``. The last row counts predictions that stop above the level, and
        `unpredicted`: false negatives of their true class and no false positives. Pixels whose
        label does not reach the level are not counted.
    """
    index = _index_at_level(hierarchy, level)
    size = len(hierarchy.level_nodes(level))
    by_row = np.zeros((size + 1, nodes.shape[1]), np.int64)
    np.add.at(by_row, index, nodes)
    if unpredicted is not None:
        by_row[-1] += unpredicted
    return _collapse_columns(by_row, index, size)


def collapse_direct(direct: np.ndarray, hierarchy: Hierarchy, level: int | str) -> np.ndarray:
    """Compute the direct matrix of a level from the counts of its direct labels.

    Args:
        direct: int64 (K, N) by [index into level_nodes(level), true node].
        hierarchy: the tree with N nodes.
        level: index or name of the level with K nodes.

    Returns:
        int64 (K + 1, K), as :func:`collapse_nodes`; a direct label always reaches its level, so
        the last row is zero.
    """
    size = len(hierarchy.level_nodes(level))
    by_row = np.concatenate([direct, np.zeros((1, direct.shape[1]), np.int64)])
    return _collapse_columns(by_row, _index_at_level(hierarchy, level), size)


def _index_at_level(hierarchy: Hierarchy, level: int | str) -> np.ndarray:
    """Return for each node the index in level_nodes(level) of its node there; K if none."""
    nodes = hierarchy.level_nodes(level)
    index = np.full(hierarchy.num_nodes + 1, len(nodes))
    index[nodes] = np.arange(len(nodes))
    # -1, for labels that do not reach the level, reads the last entry: K
    return index[hierarchy.level_ancestor[hierarchy.level_index(level)]]


def _collapse_columns(by_row: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    matrix = np.zeros((len(by_row), size + 1), np.int64)
    np.add.at(matrix.T, index, by_row.T)
    return matrix[:, :size]


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

    def cells(self, part: slice, stride: int, table: np.ndarray | None) -> np.ndarray | None:
        """Return ``table[id]``, or ``id * stride`` without a table; None if an id is unknown."""
        values = self.values[part]
        if self.low == 0:  # one pass: read as unsigned, a negative id is a large one
            in_range = values.view(f"u{values.itemsize}").max() <= self.high
        else:
            in_range = self.low <= values.min() and values.max() <= self.high
        if not in_range:
            return None
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
            f"the {self.name} holds {', '.join(map(str, found[:5]))}"
            f"{', ...' if len(found) > 5 else ''}; allowed are {which} node ids {low} to "
            f"{high}{void}"
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

    histogram = np.zeros(num_cells, np.int64)
    for part in _slices(maps[0].values.size, max(_PIXELS_AT_A_TIME, 2 * num_cells)):
        index = None
        for label_map, stride, table in zip(maps, strides, tables, strict=True):
            cells = label_map.cells(part, stride, table)
            if cells is None:
                label_map.check()
            index = cells if index is None else np.add(index, cells, out=index)
        counts = np.bincount(index, minlength=num_cells)
        if len(counts) != num_cells:
            for label_map in maps:
                label_map.check()
        histogram += counts
    return histogram.reshape(shape)


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


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_ignore_label(hierarchy: Hierarchy, ignore_label: int) -> None:
    if 0 <= ignore_label < hierarchy.num_nodes:
        raise ValueError(
            f"ignore_label {ignore_label} is a node id of tree {hierarchy.name!r}; "
            f"choose a value outside 0 .. {hierarchy.num_nodes - 1}"
        )
