"""Check a registered dataset: count its labels, and list what is wrong or doubtful in it."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from hiera_seg.config import WIDE_IGNORE_VALUE
from hiera_seg.data.catalog import resolve_unscored
from hiera_seg.data.files import (
    check_same_size,
    exif_orientation,
    open_image,
    read_label_file,
    read_oriented_label,
)
from hiera_seg.data.images import check_exif, read_stored
from hiera_seg.data.labels import LabelReader
from hiera_seg.data.listing import UnpairedFilesError
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy

logger = logging.getLogger(__name__)

_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_FEWEST_LEVELS = 64  # of brightness, before a warning
_MOST_FILES = 500  # to read before training
_SHOWN = 8  # leaves that a message names before it only counts


@dataclass
class DatasetReport:
    """What a dataset holds.

    Attributes:
        name: of the dataset.
        hierarchy: its tree.
        num_images: images listed with a label file.
        node_images: int64 (N,), images that show a node, descendants included.
        node_pixels: int64 (N,), pixels labelled with the node itself.
        void_pixels: pixels labelled as void.
        default_void: the raw id that is void although no label map says so; None for none.
        default_void_pixels: how many pixels have it.
        file_problems: what is wrong with the files, one line each.
        image_values: for each kind of image ("8-bit", "float") the lowest value, the highest
            value and the number of images; empty where images were not decoded.
        turned: (path of the image, its EXIF orientation, that of its label) where they differ.
    """

    name: str
    hierarchy: Hierarchy
    num_images: int = 0
    node_images: np.ndarray = field(default=None)  # type: ignore[assignment]
    node_pixels: np.ndarray = field(default=None)  # type: ignore[assignment]
    void_pixels: int = 0
    default_void: int | None = None
    default_void_pixels: int = 0
    file_problems: list[str] = field(default_factory=list)
    image_values: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    turned: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.node_images is None:
            self.node_images = np.zeros(self.hierarchy.num_nodes, dtype=np.int64)
        if self.node_pixels is None:
            self.node_pixels = np.zeros(self.hierarchy.num_nodes, dtype=np.int64)

    @property
    def num_pixels(self) -> int:
        """All pixels whose label could be read, void included."""
        return int(self.node_pixels.sum()) + self.void_pixels

    @property
    def subtree_pixels(self) -> np.ndarray:
        """int64 (N,), pixels of a node and all its descendants."""
        total = self.node_pixels.copy()
        for node in np.argsort(-self.hierarchy.depth, kind="stable").tolist():
            if self.hierarchy.parent[node] >= 0:
                total[self.hierarchy.parent[node]] += total[node]
        return total

    @property
    def absent_leaves(self) -> list[str]:
        """Names of the leaves without a pixel."""
        leaves = range(self.hierarchy.num_leaves)
        return [self.hierarchy.display_names[v] for v in leaves if not self.node_pixels[v]]

    @property
    def problems(self) -> list[str]:
        """What has to be fixed, one line each: files, and ids that may be void by mistake."""
        leaves = leaves_without_label(self.hierarchy, self.node_pixels)
        if not leaves or not self.default_void_pixels:
            return self.file_problems
        share = 100 * self.default_void_pixels / self.num_pixels
        return [
            *self.file_problems,
            f"leaves that never occur: {_few(leaves)}, while raw id {self.default_void} "
            f"({self.default_void_pixels} pixels, {share:.2f} %) is void by default; if it stands "
            f"for one of them, register the dataset with a label_map, and if it is void, with one "
            f"that maps it to None",
        ]

    @property
    def warnings(self) -> list[str]:
        """What may be right or wrong, one line each."""
        found = []
        without = [entry for entry in self.turned if entry[2] == 1]
        other = [entry for entry in self.turned if entry[2] != 1]
        for entries, what in ((without, "their labels none"), (other, "their labels another one")):
            if entries:
                path, orientation, _ = entries[0]
                found.append(
                    f"{len(entries)} image(s) carry an EXIF orientation, {what} (first: {path}, "
                    f"orientation {orientation}); if the labels were drawn on the pixels as they "
                    "are stored, set INPUT.EXIF to ignore"
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
        name: of a dataset registered with register_hierarchical_dataset.
        quick: read no more than the size of an image, so that a damaged one may pass.
        progress: show a bar on stderr, where that is a terminal.
        exif: as INPUT.EXIF, for the comparison of sizes.

    Returns:
        Counts, and every problem: missing or unpaired files, files that cannot be read, sizes
        that differ, ids that are not mapped.

    Raises:
        DatasetError: the dataset has no class tree.
        ConfigError: `exif` is neither "apply" nor "ignore".
    """
    reader = LabelReader.from_metadata(MetadataCatalog.get(name), check_exif(exif))
    report = DatasetReport(name, reader.hierarchy, default_void=reader.default_void)
    try:
        records = DatasetCatalog.get(name)
    except UnpairedFilesError as error:
        report.file_problems.append(str(error))
        records = error.records
    except DatasetError as error:
        report.file_problems.append(str(error))
        records = []
    report.num_images = len(records)

    def look(record: dict) -> "_Sample | str":
        try:
            return _read_sample(record, reader, quick)
        except DatasetError as error:
            return str(error)

    # Threads are enough: Pillow decodes without holding the interpreter's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked = pool.map(look, records)
        for sample in tqdm(
            looked, total=len(records), desc=name, disable=None if progress else True
        ):
            if isinstance(sample, str):
                report.file_problems.append(sample)
            else:
                _add_sample(report, sample)
    return report


def leaves_without_label(hierarchy: Hierarchy, node_pixels: np.ndarray) -> list[str]:
    """Names of the leaves that occur in no label, neither by themselves nor as an inner node.

    Args:
        hierarchy: the tree with N nodes.
        node_pixels: (N,), pixels labelled with the node itself.
    """
    names, labelled = hierarchy.display_names, np.asarray(node_pixels) > 0
    leaves = range(hierarchy.num_leaves)
    return [names[v] for v in leaves if not labelled[list(hierarchy.ancestors(v))].any()]


def warn_of_absent_leaves(name: str, hierarchy: Hierarchy, exif: str = "apply") -> None:
    """Log a warning if leaves have no pixel in the labels of a dataset.

    Their scores would be left out of the means. It ends as soon as every leaf was seen, and after
    500 files that are spread over the dataset; files that cannot be read are passed over.

    Args:
        name: of the dataset.
        hierarchy: the tree that is evaluated.
        exif: as INPUT.EXIF.
    """
    meta = MetadataCatalog.get(name)
    try:
        own = LabelReader.from_metadata(meta, exif)
        reader = (
            own if own.hierarchy == hierarchy else own.to_hierarchy(hierarchy, WIDE_IGNORE_VALUE)
        )
        files = [record.get("sem_seg_file_name") for record in DatasetCatalog.get(name)]
    except DatasetError:  # not with a tree, or to be reported where it is evaluated
        return
    unscored = resolve_unscored(meta.get("unscored_classes") or (), own.hierarchy)
    unscored = {own.hierarchy.paths[leaf] for leaf in unscored}
    pixels = np.array([path in unscored for path in hierarchy.paths], dtype=np.int64)
    order = np.random.default_rng(0).permutation(len(files))[:_MOST_FILES]
    read = default_void = 0
    for index in order:
        try:
            raw = read_label_file(files[index], exif=exif, colors=reader.colors)
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
        f"No pixel of {_few(absent)} in {read} of the {len(files)} label files of {name}, which "
        "is evaluated: the means leave such leaves out"
    )
    if default_void:
        message += f"; raw id {own.default_void} is void there because no label_map names it"
    logger.warning(f"{message} (tools/check_dataset.py {name} counts all)")


def format_reports(reports: Sequence[DatasetReport]) -> str:
    """Tables of images, pixels and shares per node, datasets of one tree side by side."""
    groups: dict[Hierarchy, list[DatasetReport]] = {}
    for report in reports:
        groups.setdefault(report.hierarchy, []).append(report)
    return "\n\n".join(_format_group(tree, group) for tree, group in groups.items())


@dataclass
class _Sample:
    """What was read of an image and its label file."""

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
    if quick:
        size, orientation = _image_size(image_path, reader.exif)
        kind, limits = "", (0, 0)
    else:
        stored = read_stored(image_path, reader.exif)
        size, orientation = stored.size, stored.orientation
        kind, limits = stored.kind, stored.limits()
    told = (record.get("height", size[0]), record.get("width", size[1]))
    if told != size:
        raise DatasetError(
            f"size differs: image {image_path} is {size[1]}x{size[0]}, its dataset says "
            f"{told[1]}x{told[0]} (width x height)"
        )
    raw, label_orientation = read_oriented_label(label_path, reader.exif, reader.colors)
    check_same_size(image_path, size, label_path, raw.shape)
    reader.check(raw, label_path)
    orientations = (orientation, label_orientation)
    return _Sample(image_path, *_count_nodes(raw, reader), orientations, kind, limits)


def _count_nodes(raw: np.ndarray, reader: LabelReader) -> tuple[np.ndarray, int, int]:
    """Pixels by node, of void, and of the raw id that is void by default."""
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
    present = np.flatnonzero(sample.pixels)
    shown = {int(v) for node in present for v in report.hierarchy.ancestors(int(node))}
    report.node_images[list(shown)] += 1
    if sample.orientations[0] != sample.orientations[1]:
        report.turned.append((sample.path, *sample.orientations))
    if sample.kind:
        low, high, count = report.image_values.get(sample.kind, (*sample.limits, 0))
        low, high = min(low, sample.limits[0]), max(high, sample.limits[1])
        report.image_values[sample.kind] = (low, high, count + 1)


def _image_size(path: str, exif: str) -> tuple[tuple[int, int], int]:
    """(height, width) of an image as it is read, and its EXIF orientation."""
    with open_image(path, "image") as (image, _):
        orientation = exif_orientation(image)
        if image.format == "TIFF":  # newer versions of Pillow give the size after turning
            width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
        else:
            width, height = image.size
    turned = exif == "apply" and orientation >= 5  # orientations that swap the sides
    return ((width, height) if turned else (height, width)), orientation


def _range_needed(kind: str, low: float, high: float) -> str:
    """Why images need INPUT.IMAGE_RANGE; "" where they do not."""
    if kind == "float" or kind.endswith("integer"):
        return "are refused without a range"
    step = 2 ** (int(kind.removesuffix("-bit")) - 8)
    levels = int(high // step - low // step) + 1
    return f"keep {levels} of 256 brightness levels" if levels < _FEWEST_LEVELS else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN))


def _format_group(tree: Hierarchy, reports: list[DatasetReport]) -> str:
    subtree = [report.subtree_pixels for report in reports]
    rows = [["", *(cell for r in reports for cell in (r.name, "", ""))]]
    rows.append(["node", *(["images", "pixels", "share %"] * len(reports))])
    own = [bool(sum(r.node_pixels[v] for r in reports)) for v in range(tree.num_nodes)]
    stack = [(v, 0) for v in reversed(tree.children(-1))]
    while stack:
        node, depth = stack.pop()
        pad = "  " * depth
        cells = [
            cell
            for report, pixels in zip(reports, subtree, strict=True)
            for cell in (f"{report.node_images[node]}", *_share(pixels[node], report))
        ]
        rows.append([pad + tree.node_names[node], *cells])
        if own[node] and node >= tree.num_leaves:
            cells = [c for r in reports for c in ("", *_share(r.node_pixels[node], r))]
            rows.append([f"{pad}  (no finer)", *cells])
        stack += [(child, depth + 1) for child in reversed(tree.children(node))]
    rows.append(["void", *(c for r in reports for c in ("", *_share(r.void_pixels, r)))])
    rows.append(
        ["all", *(c for r in reports for c in (f"{r.num_images}", *_share(r.num_pixels, r)))]
    )
    lines = _align(rows)
    for report in reports:
        for kind, (low, high, count) in report.image_values.items():
            lines.append(f"{report.name}: values {low:g} to {high:g} in {count} {kind} images")
        if report.num_pixels and report.absent_leaves:
            lines.append(f"{report.name}: no pixel of {', '.join(report.absent_leaves)}")
    return "\n".join(lines)


def _share(pixels: int, report: DatasetReport) -> tuple[str, str]:
    return f"{pixels}", f"{100 * pixels / max(report.num_pixels, 1):.4f}"


def _align(rows: list[list[str]]) -> list[str]:
    names, body = rows[0], rows[1:]
    widths = [max(len(row[i]) for row in body) for i in range(len(body[0]))]
    lines = []
    heading = " " * widths[0]
    for i in range(1, len(names), 3):
        heading += "  " + names[i].rjust(sum(widths[i : i + 3]) + 4)
    lines.append(heading)
    for row in body:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
