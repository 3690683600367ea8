"""Looking through a registered dataset: what is in it, and what is wrong with it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from PIL import Image
from tqdm import tqdm

from hiera_seg.data.files import (
    DatasetError,
    check_same_size,
    read_image_file,
    read_label_file,
    refuse_download,
)
from hiera_seg.data.labels import LabelReader
from hiera_seg.data.listing import UnpairedFilesError
from hiera_seg.hierarchy import Hierarchy


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
        problems: one line each.
    """

    name: str
    hierarchy: Hierarchy
    num_images: int = 0
    node_images: np.ndarray = field(default=None)  # type: ignore[assignment]
    node_pixels: np.ndarray = field(default=None)  # type: ignore[assignment]
    void_pixels: int = 0
    problems: list[str] = field(default_factory=list)

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


def check_dataset(name: str, *, quick: bool = False, progress: bool = False) -> DatasetReport:
    """Read every file of a registered dataset and count its labels.

    Args:
        name: of a dataset registered with register_hierarchical_dataset.
        quick: read no more than the size of an image, so that a damaged one may pass.
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        Counts, and every problem: missing or unpaired files, files that can not be read, sizes
        that differ, ids that are not mapped.

    Raises:
        DatasetError: the dataset has no class tree.
    """
    reader = LabelReader.from_metadata(MetadataCatalog.get(name))
    report = DatasetReport(name, reader.hierarchy)
    try:
        records = DatasetCatalog.get(name)
    except UnpairedFilesError as error:
        report.problems.append(str(error))
        records = error.records
    except DatasetError as error:
        report.problems.append(str(error))
        records = []
    report.num_images = len(records)

    def look(record: dict) -> "tuple[np.ndarray, int] | str":
        try:
            return _count_labels(record, reader, quick)
        except DatasetError as error:
            return str(error)

    # Threads are enough: Pillow decodes without holding the interpreter's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked = pool.map(look, records)
        for result in tqdm(
            looked, total=len(records), desc=name, disable=None if progress else True
        ):
            if isinstance(result, str):
                report.problems.append(result)
                continue
            pixels, void = result
            report.node_pixels += pixels
            report.void_pixels += void
            present = np.flatnonzero(pixels)
            shown = {int(v) for node in present for v in reader.hierarchy.ancestors(int(node))}
            report.node_images[list(shown)] += 1
    return report


def format_reports(reports: Sequence[DatasetReport]) -> str:
    """Tables of images, pixels and shares per node, datasets of one tree side by side."""
    groups: dict[Hierarchy, list[DatasetReport]] = {}
    for report in reports:
        groups.setdefault(report.hierarchy, []).append(report)
    return "\n\n".join(_format_group(tree, group) for tree, group in groups.items())


def _count_labels(record: dict, reader: LabelReader, quick: bool) -> tuple[np.ndarray, int]:
    image_path, label_path = record["file_name"], record.get("sem_seg_file_name")
    if label_path is None:
        raise DatasetError(f"image {image_path} has no label file")
    size = _image_size(image_path) if quick else read_image_file(image_path).shape[:2]
    told = (record.get("height", size[0]), record.get("width", size[1]))
    if told != size:
        raise DatasetError(
            f"size differs: image {image_path} is {size[1]}x{size[0]}, its dataset says "
            f"{told[1]}x{told[0]} (width x height)"
        )
    raw = read_label_file(label_path)
    check_same_size(image_path, size, label_path, raw.shape)
    reader.check(raw, label_path)

    count = np.bincount(raw.ravel())
    ids = np.flatnonzero(count)
    nodes = reader.table[ids]
    is_node = nodes != reader.ignore_label
    pixels = np.zeros(reader.hierarchy.num_nodes, dtype=np.int64)
    np.add.at(pixels, nodes[is_node], count[ids][is_node])
    return pixels, int(count[ids][~is_node].sum())


def _image_size(path: str) -> tuple[int, int]:
    refuse_download(path)
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that swap the sides
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError as error:
        raise DatasetError(f"image file not found: {path}") from error
    except Exception as error:
        raise DatasetError(f"cannot read image file {path}: {error}") from error


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
