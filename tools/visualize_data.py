#!/usr/bin/env python
"""Draw samples of a dataset with their labels at every level of the class tree."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hiera_seg.cli import add_config, exit_on_error, tool_parser
from hiera_seg.cli.arguments import check_at_least
from hiera_seg.cli.exit import prepare_folder
from hiera_seg.disk import replace_file
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from hiera_seg.report.samples import SampleReader

EPILOG = """
examples:
  images and labels as stored in files
    tools/visualize_data.py hiera_camvid_train --output out/ --num 8
  the samples of a training: resized, cropped, flipped, with color augmentation
    tools/visualize_data.py --config-file CONFIG --source dataloader --output out/
  a custom dataset, registered when my_datasets.py is imported
    tools/visualize_data.py my_dataset --import my_datasets --output out/

One PNG file per sample has the image, its labels at each level, and the tree as legend.
"""
Sample = tuple[str, np.ndarray, np.ndarray]  # name, RGB image (H, W, 3), node ids (H, W)


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="datasets; default: the config's training sets"
    )
    parser.add_argument(
        "--source", choices=["annotation", "dataloader"], default="annotation",
        help="the files as they are, or the training stream of --config-file (annotation)",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="for images")
    parser.add_argument(
        "--num", type=int, default=8, help="samples of each dataset or of the stream (8)"
    )
    parser.add_argument("--alpha", type=float, default=0.55, help="opacity of colors, 0..1 (0.55)")
    add_config(parser, required=False, weights=False)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli import read_config
    from hiera_seg.config import resolve_hierarchy
    from hiera_seg.data.catalog import require_registered
    from hiera_seg.report.samples import SampleReader

    try:
        import hiera_seg.visualization  # noqa: F401
    except ImportError as missing:  # OpenCV
        sys.exit(f"error: {missing}")
    check_arguments(args)
    cfg = read_config(args, tool=__file__)
    names = tuple(args.names or cfg.DATASETS.TRAIN)
    require_registered(names, "NAME" if args.names else "DATASETS.TRAIN")
    prepare_folder(args.output, "--output")
    if args.source == "dataloader":
        cfg.DATASETS.TRAIN = names
        streams = [(resolve_hierarchy(cfg), training_samples(cfg, args.num))]
    else:
        tree = resolve_hierarchy(cfg) if args.config_file else None
        readers = {name: SampleReader(cfg, name, tree) for name in names}
        streams = [
            (read.hierarchy, file_samples(name, read, args.num)) for name, read in readers.items()
        ]
    drawn = failed = 0
    for hierarchy, samples in streams:
        for sample in samples:
            if isinstance(sample, DatasetError):  # continue with the other files
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
    check_at_least(args, num=1)
    if not 0 <= args.alpha <= 1:
        raise ConfigError(f"--alpha is {args.alpha}; it must lie in 0..1")
    if args.source == "dataloader" and not args.config_file:
        raise ConfigError("--source dataloader needs --config-file")
    if not args.names and not args.config_file:
        raise ConfigError("no dataset to draw; name a registered one, or add --config-file")


def file_samples(name: str, read: SampleReader, num: int) -> Iterator[Sample | DatasetError]:
    """Yield samples spread evenly over a dataset, or the error of a file."""
    from hiera_seg.report.samples import spread_over

    for index, record in spread_over(name, num).items():
        try:
            image, labels = read(record)
            if labels is None:
                raise DatasetError(
                    f"image {record['file_name']} has no labels; register dataset {name!r} with "
                    "label files and a class tree"
                )
        except DatasetError as error:
            yield error
            continue
        yield f"{name}-{index:05d}-{Path(record['file_name']).stem}", image, labels


def training_samples(cfg: CfgNode, num: int) -> Iterator[Sample]:
    """Yield the first samples of the training stream of a config."""
    from hiera_seg.config import resolve_hierarchy, resolve_ignore_label
    from hiera_seg.data import build_hiera_train_loader
    from hiera_seg.data.bands import as_rgb

    cfg.SEED = max(cfg.SEED, 0)
    cfg.DATALOADER.NUM_WORKERS = 0
    ignore = resolve_ignore_label(cfg, resolve_hierarchy(cfg))
    batches = itertools.chain.from_iterable(build_hiera_train_loader(cfg))
    for position, sample in enumerate(itertools.islice(batches, num)):
        image = sample["image"].permute(1, 2, 0).numpy()
        image = as_rgb(image, cfg.INPUT.FORMAT, cfg.INPUT.DISPLAY_BANDS)
        labels = sample["sem_seg"].numpy()
        labels = np.where(labels == ignore, -1, labels)
        stem = Path(sample["file_name"]).stem
        name = sample.get("dataset_name") or "training"
        yield f"{name}-{position:05d}-{stem}", np.ascontiguousarray(image), labels


def draw(
    path: Path, image: np.ndarray, labels: np.ndarray, hierarchy: Hierarchy, alpha: float
) -> None:
    from hiera_seg.visualization import cut_at_levels, draw_levels

    levels = cut_at_levels(labels, hierarchy)
    drawing = Image.fromarray(draw_levels(image, levels, hierarchy, alpha=alpha))
    replace_file(path, lambda file: drawing.save(file, "PNG"))


def describe(labels: np.ndarray, hierarchy: Hierarchy) -> str:
    """Return the size of a label map, and its largest classes with their shares."""
    known = labels[(labels >= 0) & (labels < hierarchy.num_nodes)]
    counts = np.bincount(known, minlength=hierarchy.num_nodes)
    largest = [v for v in np.argsort(-counts, kind="stable")[:5] if counts[v]]
    shares = [f"{hierarchy.display_names[v]} {counts[v] / labels.size:.0%}" for v in largest]
    void = f"void {1 - known.size / labels.size:.0%}"
    return ", ".join([f"{labels.shape[1]}x{labels.shape[0]}", *shares, void])


if __name__ == "__main__":
    exit_on_error(main, parse_args())
