"""Evaluate label maps in files, whatever framework wrote them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from hiera_seg.data.array_files import ARRAY_TYPES
from hiera_seg.data.labels import LabelReader
from hiera_seg.data.listing import walk_folders
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.evaluation.evaluator import HieraSemSegEvaluator
from hiera_seg.hierarchy.messages import listing

NODE_IDS = "node"  # as label map: the files hold node ids
_TYPES = (".png", ".bmp", ".tif", ".tiff", ".pgm", *ARRAY_TYPES)


def evaluate_predictions(
    dataset_name: str,
    folder: str | os.PathLike,
    *,
    label_map: Mapping | str | os.PathLike | None = None,
    suffix: str = "",
    output_dir: str | os.PathLike | None = None,
    exif: str = "apply",
    boundary_iou: bool = False,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Score the label maps of a folder against a dataset's ground truth.

    Files may be grey or palette images of 8 or 16 bits, or ``.npy`` or ``.mat`` arrays of integers,
    of the size of their image. A pixel that the label map maps to void counts as wrong, as in the
    official scripts of Cityscapes; pixels that are void in the ground truth do not count.

    Args:
        dataset_name: a registered dataset with a class tree.
        folder: the predictions, at any depth. The stem of a file is that of its image, or that of
            the image's label file. If two files have the same stem, their folders are compared with
            those of the image. Other files are ignored.
        label_map: the meaning of the ids in the files: a dict {id: node id, name or path, or None
            for void}, the path of a yaml file that holds one, or "node" for node ids. None for the
            ids of the dataset's own label files.
        suffix: ending of the stem of every prediction, which its image lacks ("_pred").
        output_dir: folder for ``hiera_metrics.json`` and the confusion matrices.
        exif: as INPUT.EXIF.
        boundary_iou: also compute the Boundary IoU of each level.
        progress: show a progress bar on stderr if that is a terminal.

    Returns:
        The result of :meth:`HieraSemSegEvaluator.evaluate`.

    Raises:
        DatasetError: predictions are missing, cannot be read, hold unknown ids or have another size
            than their ground truth.
        ConfigError: the label map cannot be read.
    """
    meta = MetadataCatalog.get(dataset_name)
    evaluator = HieraSemSegEvaluator(
        dataset_name,
        distributed=False,
        output_dir=None if output_dir is None else os.fspath(output_dir),
        exif=exif,
        boundary_iou=boundary_iou,
    )
    reader = LabelReader.from_metadata(meta, exif)
    resized = reader.resize is not None
    source = f"dataset {dataset_name!r}"
    if label_map is not None:
        source = "the label map"
        if isinstance(label_map, str | os.PathLike) and label_map != NODE_IDS:
            source, label_map = os.fspath(label_map), read_label_map(label_map)
        ids = None if isinstance(label_map, str) else label_map
        source = f"tree {reader.hierarchy.name!r}" if ids is None else source
        try:
            reader = LabelReader(reader.hierarchy, ids, reader.ignore_label, exif=exif)
        except DatasetError as error:
            raise DatasetError(f"{source}: {error}") from error

    records = [r for r in DatasetCatalog.get(dataset_name) if r.get("sem_seg_file_name")]
    if not records:
        raise DatasetError(f"dataset {dataset_name!r} has no label files; register it with them")
    files = match_predictions(records, folder, suffix)
    for record, path in zip(
        tqdm(records, desc=dataset_name, disable=None if progress else True), files, strict=True
    ):
        raw, _ = reader.read_raw(path)
        try:
            nodes = reader.lookup(raw, path)
        except DatasetError as error:
            if unknown := reader.unmapped(raw):
                raise DatasetError(
                    f"prediction {path} holds the ids {listing(unknown, 20)}, which {source} "
                    "does not map; specify a label map (--label-map) with null for void"
                ) from error
            raise
        void = nodes == reader.ignore_label
        size = dict(zip(("height", "width"), nodes.shape, strict=True)) if resized else {}
        output = {"hiera_labels": np.where(void, 0, nodes), "hiera_unpredicted": void}
        try:
            evaluator.process([record | size], [output])
        except DatasetError:
            raise
        except ValueError as error:
            raise DatasetError(f"prediction {path}: {error}") from error
    return evaluator.evaluate()


class _LabelMapLoader(yaml.SafeLoader):
    """Read lists as keys, for colours, and refuse repeated keys, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        found: dict = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            key = tuple(key) if isinstance(key, list) else key
            if key in found:
                problem = f"the key {key!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found


def read_label_map(path: str | os.PathLike) -> dict[Any, Any]:
    """Read a yaml file of a label map, ``id: node`` per line.

    Raises:
        ConfigError: the file is missing, or does not hold such a map.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _LabelMapLoader)
    except (OSError, TypeError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"label map {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"label map {path} holds a {type(content).__name__}; expected lines of the form "
            "`id: node`, such as `7: road` or `0: null` for void"
        )
    return content


def match_predictions(
    records: Sequence[Mapping], folder: str | os.PathLike, suffix: str = ""
) -> list[str]:
    """Find the prediction of each of a dataset's dicts, see :func:`evaluate_predictions`.

    Raises:
        DatasetError: the folder is missing, an image has no prediction or several, or two images
            match the same one.
    """
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise DatasetError(f"folder of predictions not found: {folder}")
    by_stem: dict[str, list[str]] = {}
    for parent, names in walk_folders(folder):
        for name in sorted(names):
            stem, kind = os.path.splitext(name)
            if kind.lower() in _TYPES:
                by_stem.setdefault(stem, []).append(os.path.join(parent, name))

    found, missing = [], []
    image_of: dict[str, str] = {}
    for record in records:
        image = record["file_name"]
        stems = [_stem(image) + suffix, _stem(record["sem_seg_file_name"]) + suffix]
        candidates = next((by_stem[stem] for stem in stems if stem in by_stem), [])
        shared = [_shared_folders(path, image) for path in candidates]
        best = [path for path, n in zip(candidates, shared, strict=True) if n == max(shared)]
        if len(best) > 1:
            raise DatasetError(f"image {image} has two predictions: {best[0]} and {best[1]}")
        if not best:
            missing.append(image)
        elif image_of.setdefault(best[0], image) != image:
            raise DatasetError(
                f"prediction {best[0]} fits two images: {image_of[best[0]]} and {image}; put "
                "predictions into the folders of their images"
            )
        found += best
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(records)} images have no prediction below {folder}: "
            f"{listing(missing, 3)}; expected "
            f"{_stem(missing[0])}{suffix}.png or .npy{_suffix_hint(_stem(missing[0]), by_stem)}"
        )
    return found


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _shared_folders(path: str, other: str) -> int:
    """Return how many folders two paths have in common, counted from their ends."""
    folders = [os.path.dirname(os.path.abspath(p)).split(os.sep)[::-1] for p in (path, other)]
    return len(os.path.commonprefix(folders))


def _suffix_hint(stem: str, by_stem: Mapping[str, list[str]]) -> str:
    endings = [found.removeprefix(stem) for found in by_stem if found.startswith(stem)]
    return f"; did you mean --suffix {min(endings, key=len)}?" if any(endings) else ""
