"""Map the values of label files to node ids of a tree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata

from hiera_seg.config import STOCK_IGNORE_VALUE, WIDE_IGNORE_VALUE
from hiera_seg.data.color_labels import color_table
from hiera_seg.data.label_files import MAX_RAW_ID, read_oriented_label
from hiera_seg.errors import DatasetError, HierarchyError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.messages import listing, suggestion

_UNMAPPED = np.iinfo(np.int64).min


class LabelReader:
    """Read label files as node ids of a tree, with one lookup table.

    Args:
        hierarchy: the tree that the node ids belong to.
        label_map: raw id, digit string or raw class name -> node id, node name or path, or None
            (or the ignore label) for void. Many to one is allowed, and so are inner nodes. None:
            the files hold node ids. In colour-coded files the keys are colours: "#ff0000", or
            (255, 0, 0).
        ignore_label: the value of void in the output. As a raw id it is void as well, unless it is
            a key of the map; negative values are not raw ids.
        raw_classes: names of the raw ids, a sequence (index = raw id) or {name: raw id}.
        name: name of the dataset, for messages.
        exif: as INPUT.EXIF: "apply" turns label files by their EXIF orientation.
        resize: "nearest" resizes labels that have another size than their image; None leaves them.
        variable: name of the label map in .mat files, see
            :func:`~hiera_seg.data.array_files.read_array_file`.

    Attributes:
        table: int64 (65536,), raw id -> node id or ignore label.
        known: bool (65536,), whether a raw id is mapped.
        default_void: the raw id that is void without being in the label map; None if there is none.

    Raises:
        DatasetError: the map or the ignore label does not fit the tree; the message names the key.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        label_map: Mapping | None = None,
        ignore_label: int = 255,
        raw_classes: Sequence[str] | Mapping[str, int] | None = None,
        *,
        name: str = "",
        exif: str = "apply",
        resize: str | None = None,
        variable: str | None = None,
    ) -> None:
        if resize not in (None, "nearest"):
            raise DatasetError(f'resize_labels is {resize!r}; specify "nearest", or omit it')
        self.hierarchy = hierarchy
        self.exif, self.resize, self.variable = exif, resize, variable
        self.ignore_label = _check_ignore_label(ignore_label, hierarchy)
        self.name = name
        self._has_map = label_map is not None
        self.colors = None  # int64 (K,) of colour-coded files, whose raw ids are indices into it
        if isinstance(label_map, Mapping) and (colored := color_table(label_map)):
            self.colors, label_map = colored

        if label_map is None:
            raw_ids = {node: node for node in range(min(hierarchy.num_nodes, MAX_RAW_ID + 1))}
        else:
            raw_ids = self._resolve(label_map, raw_classes)
        self.default_void = None
        if 0 <= ignore_label <= MAX_RAW_ID and ignore_label not in raw_ids:
            raw_ids[ignore_label] = ignore_label
            if self.colors is None:
                self.default_void = ignore_label
        table = np.full(MAX_RAW_ID + 1, _UNMAPPED, dtype=np.int64)
        table[list(raw_ids)] = list(raw_ids.values())
        self.table, self.known = _read_only(table)
        # Whether 255 is the id of a class, and cannot stand for a -1 in an array file.
        self._wide = table[STOCK_IGNORE_VALUE] not in (_UNMAPPED, ignore_label)

    @classmethod
    def from_metadata(cls, meta: Metadata, exif: str = "apply") -> "LabelReader":
        """Build the reader of a dataset from its metadata.

        Raises:
            DatasetError: the dataset was not registered with a tree.
        """
        tree = meta.get("hierarchy")
        if tree is None:
            raise DatasetError(
                f"dataset {meta.name!r} has no class tree; register it with "
                "register_hierarchical_dataset"
            )
        return cls(
            Hierarchy.from_dict(**tree),
            meta.get("label_map"),
            meta.ignore_label,
            meta.get("raw_classes"),
            name=meta.name,
            exif=exif,
            resize=meta.get("resize_labels"),
            variable=meta.get("label_variable"),
        )

    def __call__(self, path: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """Read a file.

        Args:
            path: the label file.
            size: (height, width) to which labels are resized if `resize` is set.

        Returns:
            (H, W) int64 node ids; void is ``ignore_label``.

        Raises:
            DatasetError: the file cannot be read or holds ids that are not mapped.
        """
        return self.lookup(self.read_raw(path, size)[0], path)

    def read_raw(self, path: str, size: tuple[int, int] | None = None) -> tuple[np.ndarray, int]:
        """Read the raw ids of a file, (H, W), and its EXIF orientation; arguments as of a call."""
        raw, orientation = read_oriented_label(
            path, self.exif, self.colors, self.variable, self._wide
        )
        if self.resize and size is not None and raw.shape != tuple(size):
            rows, columns = map(_nearest, raw.shape, size)
            raw = raw[np.ix_(rows, columns)]
        return raw, orientation

    def lookup(self, raw: np.ndarray, source: str = "array") -> np.ndarray:
        """Map raw values, (H, W) integers, to int64 node ids; ``source`` is named in errors."""
        self.check(raw, source)
        return self.table.take(raw)

    def check(self, raw: np.ndarray, source: str = "array") -> None:
        """Check that every value is mapped.

        Raises:
            DatasetError: some are not (the message lists them); or an 8-bit file of node ids holds
                255, which is the id of a node, but probably means void.
        """
        is_node = not self._has_map and self.hierarchy.num_nodes > 255 and self.ignore_label > 255
        if is_node and raw.dtype == np.uint8 and (raw == 255).any():
            raise DatasetError(
                f"{source}: 255 in a file of 8 bits usually means void, but it is the id of node "
                f"{self.hierarchy.paths[255]!r} of {_tree_text(self.hierarchy)}; write files of 16 "
                "bits, or register the dataset with a label_map"
            )
        if raw.dtype in (np.uint8, np.uint16) and self.known.take(raw).all():
            return
        unknown = self.unmapped(raw)
        if not unknown:
            return
        ids = listing(unknown, 20)
        of = f" of dataset {self.name!r}" if self.name else ""
        if self._has_map:
            raise DatasetError(
                f"{source}: raw ids {ids} are not in the label map{of}; map each to a node, or to "
                "None for void"
            )
        void = f", void {self.ignore_label}" if self.ignore_label >= 0 else ""
        raise DatasetError(
            f"{source}: ids {ids} are not node ids of {_tree_text(self.hierarchy)}{of} "
            f"(0..{self.hierarchy.num_nodes - 1}{void}); if the file holds other ids, register the "
            "dataset with a label_map"
        )

    def unmapped(self, raw: np.ndarray) -> list[int]:
        """Return the values in ``raw`` that are not mapped, ascending."""
        values = np.unique(raw).astype(np.int64)
        outside = (values < 0) | (values > MAX_RAW_ID)
        return values[outside | ~self.known[np.where(outside, 0, values)]].tolist()

    def to_hierarchy(self, hierarchy: Hierarchy, ignore_label: int) -> "LabelReader":
        """Return a reader of the same files whose node ids are those of another tree.

        A node of one tree is the node with the same path in the other.

        Raises:
            DatasetError: a node that labels may hold is not in the other tree.
        """
        return _TranslatedReader(self, hierarchy, ignore_label)

    def _resolve(self, label_map: Mapping, raw_classes: Any) -> dict[int, int]:
        """Return the label map as {raw id: node id or ignore label}."""
        if not isinstance(label_map, Mapping):
            raise DatasetError(
                f"label_map is {label_map!r}; specify a dict {{raw id or name: node}}"
            )
        raw_ids = _raw_class_ids(raw_classes)
        resolved: dict[int, int] = {}
        for key, value in label_map.items():
            raw_id = _resolve_key(key, raw_ids)
            node = self._resolve_value(key, value)
            if resolved.setdefault(raw_id, node) != node:
                raise DatasetError(
                    f"label_map maps raw id {raw_id} twice (the second time by key {key!r}), to "
                    "different nodes"
                )
        return resolved

    def _resolve_value(self, key: Any, value: Any) -> int:
        if value is None:
            return self.ignore_label
        if isinstance(value, str):
            try:
                return int(self.hierarchy.id(value))
            except HierarchyError as error:
                raise DatasetError(f"label_map[{key!r}]: {error}") from error
        num_nodes = self.hierarchy.num_nodes
        if _is_int(value) and (0 <= value < num_nodes or value == self.ignore_label):
            return int(value)
        raise DatasetError(
            f"label_map[{key!r}] is {value!r}; specify a node of {_tree_text(self.hierarchy)} by "
            f"its id 0..{num_nodes - 1}, name or path, or None (or {self.ignore_label}) for void"
        )


class _TranslatedReader(LabelReader):
    """Read the files of one reader as node ids of another tree.

    Values are checked by the first reader, whose messages name its own ids.
    """

    def __init__(self, own: LabelReader, hierarchy: Hierarchy, ignore_label: int) -> None:
        vars(self).update(vars(own), own=own, hierarchy=hierarchy)
        self.ignore_label = _check_ignore_label(ignore_label, hierarchy)
        target = {path: node for node, path in enumerate(hierarchy.paths)}
        is_node = own.known & (own.table != own.ignore_label)
        table = np.where(own.known, ignore_label, _UNMAPPED)
        for node in np.unique(own.table[is_node]).tolist():
            path = own.hierarchy.paths[node]
            if path not in target:
                raise DatasetError(
                    f"dataset {own.name!r}: node {path!r} of {_tree_text(own.hierarchy)} is not in "
                    f"the model's {_tree_text(hierarchy).removeprefix('the ')}, whose nodes are "
                    f"matched by path{suggestion(path, target)}"
                )
            table[own.table == node] = target[path]
        self.table, self.known = _read_only(table)

    def check(self, raw: np.ndarray, source: str = "array") -> None:
        self.own.check(raw, source)


def default_void(hierarchy: Hierarchy) -> int:
    """Return the ignore label of a tree's datasets: 255, or 65535 if the tree has a node 255."""
    return STOCK_IGNORE_VALUE if hierarchy.num_nodes <= STOCK_IGNORE_VALUE else WIDE_IGNORE_VALUE


def _nearest(old: int, new: int) -> np.ndarray:
    """Return, for each of `new` pixels of an axis, the nearest of its `old` ones."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _read_only(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a lookup table and the mask of its mapped entries, both read-only."""
    known = table != _UNMAPPED
    table.flags.writeable = known.flags.writeable = False
    return table, known


def _check_ignore_label(value: Any, hierarchy: Hierarchy) -> int:
    """Return an ignore label; raise DatasetError if it is not an integer or is a node id."""
    if not _is_int(value):
        raise DatasetError(f"ignore_label is {value!r}; specify an integer")
    if 0 <= value < hierarchy.num_nodes:
        raise DatasetError(
            f"ignore_label {value} is the id of node {hierarchy.paths[value]!r} of "
            f"{_tree_text(hierarchy)}; choose one outside 0..{hierarchy.num_nodes - 1}"
        )
    return int(value)


def _raw_class_ids(raw_classes: Any) -> dict[str, int | None]:
    """Return {name: raw id}, with None for a name that several raw ids have."""
    if isinstance(raw_classes, list | tuple):
        pairs = [(name, raw_id) for raw_id, name in enumerate(raw_classes)]
    elif isinstance(raw_classes, Mapping | None):
        pairs = list((raw_classes or {}).items())
    else:
        pairs = [(None, raw_classes)]
    if not all(isinstance(name, str) and _is_int(raw_id) for name, raw_id in pairs):
        raise DatasetError(
            f"raw_classes is {raw_classes!r}; specify a list of names in the order of their raw "
            "ids, or a dict {name: raw id}"
        )
    counts = Counter(name for name, _ in pairs)
    return {name: int(raw_id) if counts[name] == 1 else None for name, raw_id in pairs}


def _resolve_key(key: Any, raw_ids: Mapping[str, int | None]) -> int:
    raw_id = None
    if isinstance(key, str) and key in raw_ids:
        raw_id = raw_ids[key]
    elif _is_int(key) or (isinstance(key, str) and key.strip().lstrip("-").isdecimal()):
        raw_id = int(key)
    if raw_id is None:
        raise DatasetError(
            f"label_map has the key {key!r}, which is neither a raw id nor the name of exactly one "
            f"in raw_classes{suggestion(str(key), raw_ids)}"
        )
    if not 0 <= raw_id <= MAX_RAW_ID:
        raise DatasetError(
            f"label_map has the raw id {raw_id} (key {key!r}), which a label file of 8 or 16 bits "
            f"cannot hold (0..{MAX_RAW_ID}; a stored -1 reads as 255 or 65535)"
        )
    return raw_id


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _tree_text(hierarchy: Hierarchy) -> str:
    """Describe a tree for a message."""
    return f"tree {hierarchy.name!r}" if hierarchy.name else "the tree"
