"""The map from what label files hold to the node ids of a tree."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata

from hiera_seg.data.color_labels import color_table
from hiera_seg.data.files import MAX_RAW_ID, read_label_file
from hiera_seg.errors import DatasetError, HierarchyError
from hiera_seg.hierarchy import Hierarchy

_UNMAPPED = np.iinfo(np.int64).min
_AMBIGUOUS = -1  # raw id of a name that several raw classes share
_SHOWN = 20  # ids or files that an error lists before it only counts


class LabelReader:
    """Reads label files as node ids of a tree; the same table for training and evaluation.

    Args:
        hierarchy: the tree whose node ids come out.
        label_map: raw id, digit string or raw class name -> node id, node name or path, or None
            (or the ignore label) for void. Many to one is fine and so are inner nodes. None: the
            files hold node ids. In colour-coded files the keys are colours: "#ff0000", or
            (255, 0, 0).
        ignore_label: the value that comes out for void. As a raw id it is void too, unless the
            map says otherwise; a negative one is no raw id.
        raw_classes: names of the raw ids, a sequence (index = raw id) or {name: raw id}.
        name: of the dataset, for messages.
        exif: as INPUT.EXIF: "apply" turns label files by their EXIF orientation.

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
    ) -> None:
        self.hierarchy = hierarchy
        self.exif = exif
        self.ignore_label = _check_ignore_label(ignore_label, hierarchy)
        self.name = name
        self._mapped = label_map is not None
        self.colors = None  # int64 (K,) of colour-coded files, whose raw ids are indices into it
        if isinstance(label_map, Mapping) and (colored := color_table(label_map)):
            self.colors, label_map = colored
        # the raw id that is void although no label map says so
        self.default_void = ignore_label if 0 <= ignore_label <= MAX_RAW_ID else None
        if self.colors is not None:
            self.default_void = None
        # node ids up to 255 and more, and void beyond them: not what files of 8 bits can hold
        self._wide = not self._mapped and hierarchy.num_nodes > 255 and ignore_label > 255

        table = np.full(MAX_RAW_ID + 1, _UNMAPPED, dtype=np.int64)
        if 0 <= ignore_label <= MAX_RAW_ID:
            table[ignore_label] = ignore_label
        if label_map is None:
            table[: hierarchy.num_nodes] = np.arange(min(hierarchy.num_nodes, len(table)))
        else:
            for raw_id, node in self._resolve(label_map, raw_classes).items():
                table[raw_id] = node
                if raw_id == self.default_void:
                    self.default_void = None
        self._set_table(table)

    @classmethod
    def from_metadata(cls, meta: Metadata, exif: str = "apply") -> "LabelReader":
        """The reader of a dataset that register_hierarchical_dataset has registered.

        Raises:
            DatasetError: the metadata holds no tree.
        """
        tree = meta.get("hierarchy")
        if tree is None:
            raise DatasetError(
                f"dataset {meta.name!r} has no class tree: register it with "
                "register_hierarchical_dataset"
            )
        return cls(
            Hierarchy.from_dict(**tree),
            meta.get("label_map"),
            meta.ignore_label,
            meta.get("raw_classes"),
            name=meta.name,
            exif=exif,
        )

    def __call__(self, path: str) -> np.ndarray:
        """Read a file.

        Returns:
            (H, W) int64 node ids; void is ``ignore_label``.

        Raises:
            DatasetError: the file can not be read or holds ids that the map lacks.
        """
        return self.lookup(read_label_file(path, exif=self.exif, colors=self.colors), path)

    def lookup(self, raw: np.ndarray, source: str = "array") -> np.ndarray:
        """Map raw values, (H, W) integers, to int64 node ids; ``source`` is named in errors."""
        self.check(raw, source)
        return self.table.take(raw)

    def check(self, raw: np.ndarray, source: str = "array") -> None:
        """Check that every value is mapped.

        Raises:
            DatasetError: some are not; the message lists them. Or 255 in a file of 8 bits may as
                well be void: files of node ids of a tree with so many nodes are of 16 bits.
        """
        if self._void_of_8_bit(raw):
            raise DatasetError(
                f"{source}: 255 in a file of 8 bits is void as a rule, and node "
                f"{self.hierarchy.paths[self.table[255]]!r} of {_tree(self.hierarchy)} by its "
                "number: write files of 16 bits, or register the dataset with a label_map"
            )
        if raw.dtype in (np.uint8, np.uint16) and self.known.take(raw).all():
            return
        unknown = self.unmapped(raw)
        if not unknown:
            return
        ids = f"{unknown[:_SHOWN]}"
        if len(unknown) > _SHOWN:
            ids = f"{ids[:-1]}, ... {len(unknown)} in all]"
        of = f" of dataset {self.name!r}" if self.name else ""
        if self._mapped:
            raise DatasetError(
                f"{source}: raw ids {ids} are not in the label map{of}; map each to a node, or to "
                "None for void"
            )
        raise DatasetError(
            f"{source}: ids {ids} are no node ids of {_tree(self.hierarchy)}{of} "
            f"(0..{self.hierarchy.num_nodes - 1}"
            + (f", void {self.ignore_label}" if self.ignore_label >= 0 else "")
            + "); if the file holds other ids, register the dataset with a label_map"
        )

    def _void_of_8_bit(self, raw: np.ndarray) -> bool:
        """Whether ``raw`` is of 8 bits and holds 255, void to whoever wrote it and a node to us."""
        return self._wide and raw.dtype == np.uint8 and bool((raw == 255).any())

    def unmapped(self, raw: np.ndarray) -> list[int]:
        """The values in ``raw`` that are not mapped, ascending."""
        values = np.unique(raw).astype(np.int64)
        outside = (values < 0) | (values > MAX_RAW_ID)
        return values[outside | ~self.known[np.where(outside, 0, values)]].tolist()

    def to_hierarchy(self, hierarchy: Hierarchy, ignore_label: int) -> "LabelReader":
        """The same files read as node ids of another tree, in which nodes are found by path.

        Raises:
            DatasetError: a node that a label may stand for is not in that tree.
        """
        target = {path: node for node, path in enumerate(hierarchy.paths)}
        translate = np.full(self.hierarchy.num_nodes, _UNMAPPED, dtype=np.int64)
        is_node = self.known & (self.table != self.ignore_label)
        for node in np.unique(self.table[is_node]).tolist():
            path = self.hierarchy.paths[node]
            if path not in target:
                near = difflib.get_close_matches(path, target, n=1, cutoff=0.5)
                raise DatasetError(
                    f"dataset {self.name!r}: node {path!r} of {_tree(self.hierarchy)} is not in "
                    f"the model's {_tree(hierarchy).removeprefix('the ')}"
                    + (f" (nearest: {near[0]!r})" if near else "")
                    + "; nodes of two trees are the same where their paths are"
                )
            translate[node] = target[path]
        table = np.where(self.known, _check_ignore_label(ignore_label, hierarchy), _UNMAPPED)
        table[is_node] = translate[self.table[is_node]]

        reader = LabelReader(hierarchy, None, ignore_label, name=self.name, exif=self.exif)
        reader._mapped, reader._wide, reader.colors = True, self._wide, self.colors
        reader.default_void = self.default_void
        reader._set_table(table)
        return reader

    def _set_table(self, table: np.ndarray) -> None:
        self.table = table  # int64 (65536,): raw id -> node id or ignore label
        self.known = table != _UNMAPPED  # bool (65536,): is the raw id mapped
        self.table.flags.writeable = self.known.flags.writeable = False

    def _resolve(self, label_map: Mapping, raw_classes: Any) -> dict[int, int]:
        """The label map with raw ids as keys and node ids or the ignore label as values."""
        raw_ids = _raw_class_ids(raw_classes)
        if not isinstance(label_map, Mapping):
            raise DatasetError(
                f"label_map is {label_map!r}; a dict of nodes by raw id or name is wanted"
            )
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
        num_nodes = self.hierarchy.num_nodes
        if value is None:
            return self.ignore_label
        if isinstance(value, str):
            try:
                return int(self.hierarchy.id(value))
            except HierarchyError as error:
                raise DatasetError(f"label_map[{key!r}]: {error}") from error
        if _is_int(value) and (0 <= value < num_nodes or value == self.ignore_label):
            return int(value)
        raise DatasetError(
            f"label_map[{key!r}] is {value!r}; a node of {_tree(self.hierarchy)} is wanted: "
            f"an id 0..{num_nodes - 1}, a name or a path, or None (or {self.ignore_label}) for void"
        )


def _check_ignore_label(value: Any, hierarchy: Hierarchy) -> int:
    if not _is_int(value):
        raise DatasetError(f"ignore_label is {value!r}; an integer is wanted")
    if 0 <= value < hierarchy.num_nodes:
        raise DatasetError(
            f"ignore_label {value} is the id of node {hierarchy.paths[value]!r} of "
            f"{_tree(hierarchy)}; choose one outside 0..{hierarchy.num_nodes - 1}"
        )
    return int(value)


def _raw_class_ids(raw_classes: Any) -> dict[str, int] | None:
    if raw_classes is None:
        return None
    if not isinstance(raw_classes, Sequence | Mapping) or isinstance(raw_classes, str):
        raise DatasetError(
            f"raw_classes is {raw_classes!r}; a list of names is wanted, in the order of their raw "
            "ids, or a dict of raw ids by name"
        )
    wrong = [name for name in raw_classes if not isinstance(name, str)]
    if isinstance(raw_classes, Mapping):
        wrong += [raw_id for raw_id in raw_classes.values() if not _is_int(raw_id)]
    if wrong:
        raise DatasetError(f"raw_classes holds {wrong[0]!r}; names and raw ids are wanted")
    if isinstance(raw_classes, Mapping):
        return {name: int(raw_id) for name, raw_id in raw_classes.items()}
    ids: dict[str, int] = {}
    for raw_id, name in enumerate(raw_classes):
        ids[name] = _AMBIGUOUS if name in ids else raw_id
    return ids


def _resolve_key(key: Any, raw_ids: dict[str, int] | None) -> int:
    if isinstance(key, str) and raw_ids and key in raw_ids:
        raw_id = raw_ids[key]
        if raw_id == _AMBIGUOUS:
            raise DatasetError(
                f"label_map has the key {key!r}, which raw_classes names more than once; use the "
                "raw id as key"
            )
    elif isinstance(key, str) and key.strip().lstrip("-").isdecimal():
        raw_id = int(key)
    elif _is_int(key):
        raw_id = int(key)
    elif isinstance(key, str) and raw_ids is None:
        raise DatasetError(
            f"label_map has the key {key!r}, a name, but no raw_classes were given to say which "
            "raw id it has"
        )
    else:
        near = difflib.get_close_matches(str(key), raw_ids or (), n=3)
        raise DatasetError(
            f"label_map has the key {key!r}, which is neither a raw id nor one of raw_classes"
            + (f" (nearest: {', '.join(near)})" if near else "")
        )
    if not 0 <= raw_id <= MAX_RAW_ID:
        raise DatasetError(
            f"label_map has the raw id {raw_id} (key {key!r}), which a label file of 8 or 16 bits "
            f"can not hold (0..{MAX_RAW_ID}; a stored -1 reads as 255 or 65535)"
        )
    return raw_id


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _tree(hierarchy: Hierarchy) -> str:
    return f"tree {hierarchy.name!r}" if hierarchy.name else "the tree"
