"""Write label files that hold node ids, for tools that do not map ids."""

import os
from collections.abc import Iterator

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data.image_files import read_size
from hiera_seg.data.label_files import MAX_RAW_ID
from hiera_seg.data.labels import LabelReader
from hiera_seg.data.listing import expand_root
from hiera_seg.disk import naming
from hiera_seg.errors import DatasetError


def convert_labels(
    name: str, out: str, *, leaves: bool = False, exif: str = "apply"
) -> Iterator[str]:
    """Write the labels of a registered dataset as grey PNGs of node ids.

    The files have 8 bits per pixel if all ids and void fit, otherwise 16, and the size of their
    images if the dataset was registered with ``resize_labels``. Their paths below ``out`` are those
    of the originals below the dataset's ``sem_seg_root``, or below their common folder if some are
    elsewhere.

    Args:
        name: name of the dataset.
        out: folder to write to.
        leaves: write void if a label is an inner node, for stock evaluators, which only know the
            leaves (``stuff_classes``).
        exif: as INPUT.EXIF: "apply" writes labels turned by the EXIF orientation of their files.

    Yields:
        The path of each file after it was written.

    Raises:
        DatasetError: an original would be overwritten, or two files would be written to the same
            path (nothing is written in both cases); or a file cannot be read (the files before it
            have been written).
    """
    meta = MetadataCatalog.get(name)
    reader = LabelReader.from_metadata(meta, exif)
    if not 0 <= reader.ignore_label <= MAX_RAW_ID:
        raise DatasetError(
            f"dataset {name!r}: its ignore label {reader.ignore_label} does not fit a label file "
            f"(0..{MAX_RAW_ID}); register it with another ignore_label"
        )
    wide = max(reader.hierarchy.num_nodes - 1, reader.ignore_label) > 255
    records = DatasetCatalog.get(name)
    image_of = {record.get("sem_seg_file_name"): record["file_name"] for record in records}
    image_of.pop(None, None)
    paths = list(image_of)
    if not paths:
        raise DatasetError(f"dataset {name!r} lists no label files")
    targets = _plan(paths, meta.get("sem_seg_root"), out)
    written = {os.path.realpath(target) for target in targets.values()}
    images = (record["file_name"] for record in records)
    for kind, originals in (("labels", paths), ("images", images)):
        if written & {os.path.realpath(path) for path in originals}:
            raise DatasetError(
                f"{out} holds the original {kind} of {name!r}; choose another folder"
            )

    for path, target in targets.items():
        labels = reader(path, read_size(image_of[path], exif)[0] if reader.resize else None)
        if leaves:
            inner = (labels >= reader.hierarchy.num_leaves) & (labels != reader.ignore_label)
            labels[inner] = reader.ignore_label
        os.makedirs(os.path.dirname(target), exist_ok=True)
        label_map = Image.fromarray(labels.astype(np.uint16 if wide else np.uint8))
        with naming(target):
            label_map.save(target)
        yield target


def _plan(paths: list[str], sem_seg_root: str | None, out: str) -> dict[str, str]:
    """Return {label file: file to write}."""
    root = expand_root(sem_seg_root) if sem_seg_root else ""
    if not root or any(os.path.relpath(path, root).startswith(os.pardir) for path in paths):
        root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    taken: dict[str, str] = {}
    for path in paths:
        target = os.path.join(out, os.path.splitext(os.path.relpath(path, root))[0] + ".png")
        if taken.setdefault(target, path) != path:
            raise DatasetError(f"{taken[target]} and {path} would both be written to {target}")
    return {path: target for target, path in taken.items()}
