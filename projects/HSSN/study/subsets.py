"""Register parts of the study's datasets: held-out images, a tenth, halves with coarse labels.

A part is chosen by the hashes of file names, or cut from each drive in the order of its frames, so
that it is the same on every machine.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.hierarchy import Hierarchy

PREFIX = "hiera_study"


def register_subsets(
    data: str, source: str, *, held_out: float, middle_level: str | None = None
) -> None:
    """Register the parts of a training set.

    Args:
        data: name of the study's dataset; the parts are ``hiera_study_<data>_<part>``.
        source: name of the registered training set.
        held_out: images of the part "val"; "fit" is the rest. 0: "fit" is all of them, no "val".
            Between 0 and 1: "val" is the last share of each drive, which is what stands before the
            "_" in the names of its frames.
        middle_level: the level that labels of the part "coarse" are cut at.

    The parts: "fit", "val", "all", "tenth" (of all), "fine" and "coarse" (the halves of all; in
    "coarse" only the middle level is known).
    """
    parts: dict[str, Callable[[int], slice]] = {
        "all": lambda n: slice(0, n),
        "fit": lambda n: slice(int(held_out), n),
        "tenth": lambda n: slice(0, round(n / 10)),
        "fine": lambda n: slice(0, n // 2),
        "coarse": lambda n: slice(n // 2, n),
    }
    if held_out:
        parts["val"] = lambda n: slice(0, int(held_out))
    if middle_level is None:
        del parts["coarse"]
    for part, cut in parts.items():
        name = f"{PREFIX}_{data}_{part}"
        if name in DatasetCatalog:
            continue
        meta = MetadataCatalog.get(source)
        tree = Hierarchy.from_dict(**meta.hierarchy)
        label_map = meta.label_map
        if part == "coarse":
            label_map = coarse_label_map(meta, tree, middle_level)
        listed = partial(list_part, source, cut)
        if 0 < held_out < 1 and part in ("fit", "val"):
            listed = partial(list_drives, source, held_out, ends=part == "val")
        register_hierarchical_dataset(
            name,
            listed,
            hierarchy=tree,
            label_map=label_map,
            raw_classes=meta.get("raw_classes"),
        )


def list_part(source: str, cut: Callable[[int], slice]) -> list[dict]:
    """Return the dicts of a part, in the order of the whole set."""
    records = DatasetCatalog.get(source)
    shuffled = sorted(range(len(records)), key=lambda i: _hash(records[i]["file_name"]))
    return [records[i] for i in sorted(shuffled[cut(len(records))])]


def list_drives(source: str, share: float, *, ends: bool) -> list[dict]:
    """Return the dicts of the last share of each drive, or of all frames before it."""
    drives: dict[str, list[dict]] = {}
    for record in sorted(DatasetCatalog.get(source), key=lambda record: record["file_name"]):
        drives.setdefault(Path(record["file_name"]).stem.partition("_")[0], []).append(record)
    found = []
    for frames in drives.values():
        cut = round(len(frames) * (1 - share))
        found += frames[cut:] if ends else frames[:cut]
    return found


def coarse_label_map(meta: Metadata, tree: Hierarchy, level: str) -> dict:
    """Return a label map from every raw id to the ancestor of its node at a level.

    Args:
        meta: metadata of the dataset with full labels.
        tree: its tree.
        level: name of a level; a node above it stays what it is.
    """
    table = tree.level_ancestor[tree.level_names.index(level)]

    def ancestor(target: str | int | None) -> str | None:
        if target is None:
            return None
        node = target if isinstance(target, int) else tree.id(target)
        return tree.paths[table[node] if table[node] >= 0 else node]

    if meta.label_map is None:
        return {v: ancestor(v) for v in range(tree.num_nodes)}
    return {raw: ancestor(target) for raw, target in meta.label_map.items()}


def _hash(file_name: str) -> str:
    return hashlib.sha256(Path(file_name).stem.encode()).hexdigest()
