"""Check a registered dataset: count its labels and list its problems."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from hiera_seg.config import WIDE_IGNORE_VALUE
from hiera_seg.data.catalog import resolve_unscored
from hiera_seg.data.image_files import check_listed_size, check_same_size, read_size
from hiera_seg.data.images import check_exif, read_stored
from hiera_seg.data.labels import LabelReader
from hiera_seg.data.listing import UnpairedFilesError
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.messages import listing
from hiera_seg.hierarchy.numbering import subtree_sums

logger = logging.getLogger(__name__)

_MIN_BRIGHTNESS_LEVELS = 64  # fewer cause a warning
_MAX_FILES = 500  # label files to read before training


@dataclass
class DatasetReport:
    """Hold the counts and problems of a dataset."""

    name: str
    hierarchy: Hierarchy
    num_images: int = 0  # number of images that are listed
    node_images: np.ndarray = field(init=False)  # int64 (N,), images of a node or its descendants
    node_pixels: np.ndarray = field(init=False)  # int64 (N,), labelled with the node itself
    void_pixels: int = 0  # pixels labelled as void
    # The raw id that is void without being in the label map, and the pixels that have this id
    default_void: int | None = None
    default_void_pixels: int = 0
    file_problems: list[str] = field(default_factory=list)  # one line each
    # {kind of image ("8-bit", "float"): (lowest value, highest value, number of images)}, empty if
    # images were not decoded
    image_values: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    # (path of the image, its EXIF orientation, that of its label) where the orientations differ
    turned: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node_images = np.zeros(self.hierarchy.num_nodes, dtype=np.int64)
        self.node_pixels = np.zeros(self.hierarchy.num_nodes, dtype=np.int64)

    @property
    def num_pixels(self) -> int:
        """Number of pixels whose label could be read, including void."""
        return int(self.node_pixels.sum()) + self.void_pixels

    @property
    def subtree_pixels(self) -> np.ndarray:
        """int64 (N,), pixels of a node and all of its descendants."""
        return subtree_sums(self.hierarchy.parent, self.hierarchy.depth, self.node_pixels)

    @property
    def absent_leaves(self) -> list[str]:
        """Names of the leaves without a pixel."""
        leaves = range(self.hierarchy.num_leaves)
        return [self.hierarchy.display_names[v] for v in leaves if not self.node_pixels[v]]

    @property
    def problems(self) -> list[str]:
        """Problems to fix, one line each: files, and ids that may be void by mistake."""
        leaves = leaves_without_label(self.hierarchy, self.node_pixels)
        if not leaves or not self.default_void_pixels:
            return self.file_problems
        share = 100 * self.default_void_pixels / self.num_pixels
        return [
            *self.file_problems,
            f"leaves that never occur: {listing(leaves)}, while raw id {self.default_void} "
            f"({self.default_void_pixels} pixels, {share:.2f} %) is void by default; register the "
            "dataset with a label_map that maps this id to a leaf, or to None if it is void",
        ]

    @property
    def warnings(self) -> list[str]:
        """Findings that are not necessarily wrong, one line each."""
        found = []
        for has_one, what in ((False, "but their labels do not"), (True, "their labels another")):
            entries = [entry for entry in self.turned if (entry[2] != 1) == has_one]
            if entries:
                path, orientation, _ = entries[0]
                found.append(
                    f"{len(entries)} image(s) have an EXIF orientation, {what} (first: {path}, "
                    f"orientation {orientation}); if the labels were drawn on the pixels as "
                    "stored, set INPUT.EXIF to ignore"
                )
        for kind, (low, high, count) in self.image_values.items():
            if kind != "8-bit" and (needed := _range_needed(kind, low, high)):
                found.append(
                    f"{count} {kind} image(s) with values from {low:g} to {high:g} {needed}; set "
                    f"INPUT.IMAGE_RANGE to the values that become 0 and 255, such as "
                    f"[{low:g}, {high:g}]"
                )
        return found


def check_dataset(
    name: str, *, quick: bool = False, progress: bool = False, exif: str = "apply"
) -> DatasetReport:
    """Read every file of a registered dataset and count its labels.

    Args:
        name: a dataset registered with register_hierarchical_dataset.
        quick: read only the sizes of images; damaged pixel data are not detected.
        progress: show a progress bar on stderr if it is a terminal.
        exif: as INPUT.EXIF, for the comparison of sizes.

    Returns:
        Counts, and all problems: missing or unpaired files, files that cannot be read, sizes that
        differ, ids that are not mapped.

    Raises:
        DatasetError: the dataset has no class tree.
        ConfigError: `exif` is neither "apply" nor "ignore".
    """
    reader = LabelReader.from_metadata(MetadataCatalog.get(name), check_exif(exif))
    report = DatasetReport(name, reader.hierarchy, default_void=reader.default_void)
    records = []
    try:
        records = DatasetCatalog.get(name)
    except DatasetError as error:
        report.file_problems.append(str(error))
        if isinstance(error, UnpairedFilesError):
            records = error.records
    report.num_images = len(records)

    def read(record: dict) -> "_Sample | str":
        try:
            return _read_sample(record, reader, quick)
        except DatasetError as error:
            return str(error)

    # Threads suffice, because Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        samples = pool.map(read, records)
        for sample in tqdm(samples, name, len(records), disable=None if progress else True):
            if isinstance(sample, str):
                report.file_problems.append(sample)
            else:
                _add_sample(report, sample)
    return report


def leaves_without_label(hierarchy: Hierarchy, node_pixels: np.ndarray) -> list[str]:
    """Return the names of the leaves that occur in no label, neither directly nor by an ancestor.

    `node_pixels` (N,) has the number of pixels that are labelled with the node itself.
    """
    paths = hierarchy.level_ancestor[:, : hierarchy.num_leaves]
    known = (np.asarray(node_pixels) > 0)[paths].any(0)
    return [hierarchy.display_names[leaf] for leaf in np.flatnonzero(~known)]


def warn_of_absent_leaves(name: str, hierarchy: Hierarchy, exif: str = "apply") -> None:
    """Log a warning if leaves of an evaluation's tree have no pixel in the labels of a dataset.

    Such leaves are excluded from the means. Reading stops when every leaf has been seen, or after
    500 randomly chosen files. Files that cannot be read are skipped.
    """
    meta = MetadataCatalog.get(name)
    try:
        own = reader = LabelReader.from_metadata(meta, exif)
        if own.hierarchy != hierarchy:
            reader = own.to_hierarchy(hierarchy, WIDE_IGNORE_VALUE)
        files = [record.get("sem_seg_file_name") for record in DatasetCatalog.get(name)]
    except DatasetError:  # the dataset has no tree, or its evaluation will raise the error
        return
    unscored = resolve_unscored(meta.get("unscored_classes"), own.hierarchy)
    unscored = {own.hierarchy.paths[leaf] for leaf in unscored}
    pixels = np.array([path in unscored for path in hierarchy.paths], dtype=np.int64)
    read = default_void = 0
    for index in np.random.default_rng(0).permutation(len(files))[:_MAX_FILES]:
        try:
            raw, _ = reader.read_raw(files[index])
            counts, _, by_default = _count_nodes(raw, reader)
        except (DatasetError, TypeError):
            continue
        pixels, read, default_void = pixels + counts, read + 1, default_void + by_default
        if pixels[: hierarchy.num_leaves].all():
            return
    absent = leaves_without_label(hierarchy, pixels)
    if not absent or not read:
        return
    message = (
        f"No pixel of {listing(absent)} in {read} of the {len(files)} label files of {name}; these "
        "leaves are excluded from the means of its evaluation"
    )
    if default_void:
        message += f"; raw id {own.default_void} is void there because no label_map has it as a key"
    logger.warning(f"{message} (tools/check_dataset.py {name} counts all labels)")


@dataclass
class _Sample:
    path: str
    pixels: np.ndarray  # int64 (N,), by node
    void: int
    default_void: int
    orientations: tuple[int, int]  # of the image and of its label
    kind: str = ""
    limits: tuple[float, float] = (0, 0)


def _read_sample(record: dict, reader: LabelReader, quick: bool) -> _Sample:
    image_path, label_path = record["file_name"], record.get("sem_seg_file_name")
    if label_path is None:
        raise DatasetError(f"image {image_path} has no label file")
    values = ()
    if quick:
        size, orientation = read_size(image_path, reader.exif)
    else:
        stored = read_stored(image_path, reader.exif)
        size, orientation = stored.size, stored.orientation
        values = stored.kind, stored.limits()
    check_listed_size(image_path, size, record)
    raw, label_orientation = reader.read_raw(label_path, size)
    check_same_size(image_path, size, label_path, raw.shape)
    reader.check(raw, label_path)
    return _Sample(
        image_path, *_count_nodes(raw, reader), (orientation, label_orientation), *values
    )


def _count_nodes(raw: np.ndarray, reader: LabelReader) -> tuple[np.ndarray, int, int]:
    """Count the pixels of each node, of void, and of the raw id that is void by default."""
    reader.check(raw)
    count = np.bincount(raw.ravel())
    ids = np.flatnonzero(count)
    nodes = reader.table[ids]
    is_node = nodes != reader.ignore_label
    pixels = np.zeros(reader.hierarchy.num_nodes, dtype=np.int64)
    np.add.at(pixels, nodes[is_node], count[ids][is_node])
    default_void = int(count[ids[ids == reader.default_void]].sum())
    return pixels, int(count[ids][~is_node].sum()), default_void


def _add_sample(report: DatasetReport, sample: _Sample) -> None:
    report.node_pixels += sample.pixels
    report.void_pixels += sample.void
    report.default_void_pixels += sample.default_void
    tree = report.hierarchy
    report.node_images += subtree_sums(tree.parent, tree.depth, sample.pixels) > 0
    if sample.orientations[0] != sample.orientations[1]:
        report.turned.append((sample.path, *sample.orientations))
    if sample.kind:
        low, high, count = report.image_values.get(sample.kind, (*sample.limits, 0))
        low, high = min(low, sample.limits[0]), max(high, sample.limits[1])
        report.image_values[sample.kind] = (low, high, count + 1)


def _range_needed(kind: str, low: float, high: float) -> str:
    """Return why images need INPUT.IMAGE_RANGE; "" if they do not."""
    if "-band" in kind:
        return ""
    if kind == "float" or kind.endswith("integer"):
        return "are refused without a range"
    step = 2 ** (int(kind.removesuffix("-bit")) - 8)
    levels = int(high // step - low // step) + 1
    return f"keep {levels} of 256 brightness levels" if levels < _MIN_BRIGHTNESS_LEVELS else ""
