#!/usr/bin/env python
"""Draw samples of a dataset with their labels at every level of the class tree."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import hiera_seg.compat  # noqa: F401  (first: loads Detectron2 without its warnings)

# isort: split
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image

from hiera_seg.cli import add_import, add_opts, exit_on_error, load_config
from hiera_seg.cli.exit import prepare_folder
from hiera_seg.config import WIDE_IGNORE_VALUE, resolve_hierarchy, resolve_ignore_label
from hiera_seg.data import LabelReader, build_hiera_train_loader
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.data.image_files import check_same_size
from hiera_seg.data.images import ImageReader
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy

try:
    from hiera_seg.visualization import cut_at_level, draw_levels
except ImportError as missing:  # OpenCV
    sys.exit(f"error: {missing}")

EPILOG = """
examples:
  images and labels as the files hold them
    tools/visualize_data.py hiera_camvid_train --output out/ --num 8
  what the network sees in training: resized, cropped, flipped, coloured
    tools/visualize_data.py --config-file CONFIG --source dataloader --output out/
  a dataset of your own, registered when my_datasets.py is imported
    tools/visualize_data.py my_dataset --import my_datasets --output out/

Each sample becomes one PNG file: the image, its labels at each level, the tree as legend.
"""
Sample = tuple[str, np.ndarray, np.ndarray]  # name, RGB image (H, W, 3), node ids (H, W)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="datasets; default: the config's training sets"
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="config of a model")
    parser.add_argument(
        "--source", choices=["annotation", "dataloader"], default="annotation",
        help="the files as they are, or the training stream of --config-file (annotation)",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="for pictures")
    parser.add_argument("--num", type=int, default=8, help="samples to draw of each dataset (8)")
    parser.add_argument("--alpha", type=float, default=0.55, help="opacity of colours, 0..1 (0.55)")
    add_import(parser)
    add_opts(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import_modules(args.modules, tool=__file__)
    check_arguments(args)
    cfg = load_config(args.config_file, args.opts, allow_remote=args.allow_remote)
    names = tuple(args.names or cfg.DATASETS.TRAIN)
    require_registered(names, "NAME" if args.names else "DATASETS.TRAIN")
    prepare_folder(args.output, "--output")
    if args.source == "dataloader":
        cfg.DATASETS.TRAIN = names
        streams = [(resolve_hierarchy(cfg), training_samples(cfg, args.num))]
    else:
        trees = {name: tree_of(name, cfg if args.config_file else None) for name in names}
        streams = [(trees[name], file_samples(cfg, name, trees[name], args.num)) for name in names]
    drawn = failed = 0
    for hierarchy, samples in streams:
        for sample in samples:
            if isinstance(sample, DatasetError):  # the other files may be good
                print(f"error: {sample}", file=sys.stderr)
                failed += 1
                continue
            name, image, labels = sample
            draw(args.output / f"{name}.png", image, labels, hierarchy, args.alpha)
            drawn += 1
            print(f"{name}: {describe(labels, hierarchy)}")
    print(f"{drawn} samples drawn into {args.output}")
    if failed:
        sys.exit(1)


def check_arguments(args: argparse.Namespace) -> None:
    if args.num < 1:
        raise ConfigError(f"--num is {args.num}; it must be 1 or more")
    if not 0 <= args.alpha <= 1:
        raise ConfigError(f"--alpha is {args.alpha}; it must lie in 0..1")
    if args.source == "dataloader" and not args.config_file:
        raise ConfigError("--source dataloader shows a config's training stream: add --config-file")
    if not args.names and not args.config_file:
        raise ConfigError("nothing to draw: name a registered dataset, or add --config-file")


def tree_of(name: str, cfg: CfgNode | None) -> Hierarchy:
    """The tree to draw a dataset's labels in: the config's where there is one, else its own."""
    if cfg is not None:
        return resolve_hierarchy(cfg)
    return LabelReader.from_metadata(MetadataCatalog.get(name)).hierarchy


def file_samples(
    cfg: CfgNode, name: str, hierarchy: Hierarchy, num: int
) -> Iterator[Sample | DatasetError]:
    """Files of a dataset, spread evenly over it; in place of a bad one its error."""
    read_image = ImageReader.from_config(cfg, "RGB")
    read = LabelReader.from_metadata(MetadataCatalog.get(name), read_image.exif)
    if read.hierarchy != hierarchy:
        read = read.to_hierarchy(hierarchy, WIDE_IGNORE_VALUE)
    records = DatasetCatalog.get(name)
    if not records:
        raise DatasetError(f"dataset {name!r} is empty")
    for index in np.unique(np.linspace(0, len(records) - 1, num).round().astype(int)):
        record = records[index]
        try:
            image = read_image(record["file_name"])
            if "sem_seg_file_name" not in record:
                raise DatasetError(f"image {record['file_name']} has no label file")
            labels = read(record["sem_seg_file_name"])
            check_same_size(
                record["file_name"], image.shape[:2], record["sem_seg_file_name"], labels.shape
            )
        except DatasetError as error:
            yield error
            continue
        yield f"{name}-{index:05d}-{Path(record['file_name']).stem}", image, labels


def training_samples(cfg: CfgNode, num: int) -> Iterator[Sample]:
    """The first samples of the stream that a config's training begins with."""
    cfg.SEED = max(cfg.SEED, 0)
    cfg.DATALOADER.NUM_WORKERS = 0
    ignore = resolve_ignore_label(cfg, resolve_hierarchy(cfg))
    batches = itertools.chain.from_iterable(build_hiera_train_loader(cfg))
    for position, sample in enumerate(itertools.islice(batches, num)):
        image = sample["image"].permute(1, 2, 0).numpy()
        image = convert_image_to_rgb(image, cfg.INPUT.FORMAT).astype(np.uint8)
        labels = sample["sem_seg"].numpy()
        labels = np.where(labels == ignore, -1, labels)
        stem = Path(sample["file_name"]).stem
        name = sample.get("dataset_name") or "training"
        yield f"{name}-{position:05d}-{stem}", np.ascontiguousarray(image), labels


def draw(
    path: Path, image: np.ndarray, labels: np.ndarray, hierarchy: Hierarchy, alpha: float
) -> None:
    levels = [cut_at_level(labels, hierarchy, level, -1) for level in range(hierarchy.num_levels)]
    try:
        Image.fromarray(draw_levels(image, levels, hierarchy, alpha=alpha)).save(path)
    except OSError as error:
        raise ConfigError(f"--output: {path} can not be written: {error.strerror}") from error


def describe(labels: np.ndarray, hierarchy: Hierarchy) -> str:
    """Size, void and the largest labels of a map."""
    known = labels[(labels >= 0) & (labels < hierarchy.num_nodes)]
    counts = np.bincount(known, minlength=hierarchy.num_nodes)
    largest = [v for v in np.argsort(-counts, kind="stable")[:5] if counts[v]]
    shares = [f"{hierarchy.display_names[v]} {counts[v] / labels.size:.0%}" for v in largest]
    void = f"void {1 - known.size / labels.size:.0%}"
    return ", ".join([f"{labels.shape[1]}x{labels.shape[0]}", *shares, void])


if __name__ == "__main__":
    exit_on_error(main, parse_args())
