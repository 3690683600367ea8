#!/usr/bin/env python
"""Segment images with a trained model and draw every level of the result."""

import argparse
import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from hiera_seg.config import ConfigError, resolve_hierarchy, resolve_ignore_label
from hiera_seg.data import DatasetError, LabelReader
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.data.labels import check_same_size, read_image_file
from hiera_seg.engine import CheckpointError, HieraCheckpointer, exit_on_error, load_config
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference import HieraPredictor, RefusesUntrained
from hiera_seg.visualization import save_levels

EPILOG = """
examples:
  your own images
    tools/demo.py --config-file CONFIG --input 'images/*.jpg' --output out/
  images of the config's test set beside their ground truth
    tools/demo.py --config-file CONFIG --output out/ --num 8
  several sizes, each also mirrored (docs/inference.md)
    tools/demo.py --config-file CONFIG --input street.jpg --output out/ \\
        --opts TEST.AUG.ENABLED True TEST.AUG.MIN_SIZES "(256, 384, 512)"
  with other weights, and inner nodes wherever the model is not sure of a leaf
    tools/demo.py --config-file CONFIG --input street.jpg --output out/ \\
        --opts MODEL.WEIGHTS model.pth MODEL.HIERA_SEG.TEST.SAFE_DEPTH 0.6

Weights: MODEL.WEIGHTS of --opts, else the last checkpoint in the config's OUTPUT_DIR, else
MODEL.WEIGHTS of the config file. For an image street.jpg it writes street_<level>.png (overlay)
and street-ids-<level>.png (grey PNG of node ids) per level, and street-levels.png (all of them).
"""
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--input", nargs="+", metavar="IMAGE", help="image files, folders, or quoted globs"
    )
    source.add_argument(
        "--dataset", metavar="NAME",
        help="take images of this dataset and show its labels beside the prediction "
        "(default: the first of DATASETS.TEST)",
    )  # fmt: skip
    parser.add_argument("--num", type=int, default=4, help="images to take of a dataset (4)")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="for pictures")
    parser.add_argument("--level", metavar="NAME", help="write overlays of this level only")
    parser.add_argument("--alpha", type=float, default=0.55, help="opacity of colours, 0..1 (0.55)")
    parser.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE",
        help="import this first, such as one that registers a dataset; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to change; the last option",
    )  # fmt: skip
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import_modules(args.modules)
    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.HIERA_SEG.TEST.OUTPUT = "labels"
    cfg.MODEL.HIERA_SEG.TEST.DIRECT = False
    hierarchy = resolve_hierarchy(cfg)
    check_arguments(args, cfg, hierarchy)
    samples = images_of(args.input) if args.input else samples_of(args.dataset, args.num)
    read_truth = None if args.input else label_reader(args.dataset, hierarchy, cfg)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {args.output} can not be made: {error.strerror}") from error

    predictor = load_predictor(cfg, args.opts)
    failed = 0
    for stem, sample in with_names(samples):
        try:
            image = read_image_file(sample["file_name"], "BGR")
            truth = None
            if read_truth is not None and "sem_seg_file_name" in sample:
                truth = read_truth(sample["sem_seg_file_name"])
                check_same_size(
                    sample["file_name"], image.shape[:2],
                    sample["sem_seg_file_name"], truth.shape,
                )  # fmt: skip
        except DatasetError as error:  # the other images may be good
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        labels = [level.cpu().numpy() for level in predictor(image)["hiera_labels"]]
        levels = None if args.level is None else [args.level]
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        save_levels(
            args.output, stem, rgb, labels, hierarchy, truth=truth, levels=levels, alpha=args.alpha
        )
        print(f"{sample['file_name']}: {describe(labels[-1], hierarchy)}")
    print(f"{len(samples) - failed} of {len(samples)} images drawn into {args.output}")
    if failed:
        sys.exit(1)


def check_arguments(args: argparse.Namespace, cfg: CfgNode, hierarchy: Hierarchy) -> None:
    if args.level is not None and args.level not in hierarchy.level_names:
        raise ConfigError(
            f"--level is {args.level!r}; the levels of tree {hierarchy.name!r} are "
            f"{', '.join(hierarchy.level_names)}"
        )
    if not 0 <= args.alpha <= 1:
        raise ConfigError(f"--alpha is {args.alpha}; it must lie in 0..1")
    if args.num < 1:
        raise ConfigError(f"--num is {args.num}; it must be 1 or more")
    if cfg.MODEL.META_ARCHITECTURE != "HieraSegmentor":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE of {args.config_file} is {cfg.MODEL.META_ARCHITECTURE}; the "
            "levels are drawn of a HieraSegmentor"
        )
    if args.input or args.dataset:
        where = "--dataset"
    elif cfg.DATASETS.TEST:
        args.dataset, where = cfg.DATASETS.TEST[0], "DATASETS.TEST"
    else:
        raise ConfigError("DATASETS.TEST is empty; give images with --input, or a --dataset")
    if args.dataset:
        require_registered([args.dataset], where)


def images_of(patterns: list[str]) -> list[dict[str, Any]]:
    """The image files that paths, folders and globs name, each once, as dicts of a dataset."""
    paths: dict[str, None] = {}
    for pattern in patterns:
        if os.path.isfile(pattern):
            found = [pattern]
        elif os.path.isdir(pattern):
            inside = sorted(Path(pattern).iterdir())
            found = [str(path) for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
        else:
            found = sorted(
                path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)
            )
        if not found:
            raise ConfigError(f"--input {pattern}: no image found")
        paths.update(dict.fromkeys(found))
    return [{"file_name": path} for path in paths]


def samples_of(dataset: str, num: int) -> list[dict[str, Any]]:
    """Dicts spread evenly over a dataset."""
    dicts = DatasetCatalog.get(dataset)
    if not dicts:
        raise DatasetError(f"dataset {dataset!r} is empty")
    return [dicts[i] for i in np.unique(np.linspace(0, len(dicts) - 1, num).round().astype(int))]


def label_reader(dataset: str, hierarchy: Hierarchy, cfg: CfgNode) -> LabelReader:
    reader = LabelReader.from_metadata(MetadataCatalog.get(dataset))
    if reader.hierarchy == hierarchy:
        return reader
    return reader.to_hierarchy(hierarchy, resolve_ignore_label(cfg, hierarchy))


def with_names(samples: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs of a name to write files under and a sample; folders tell equal file names apart."""
    paths = [Path(os.path.abspath(sample["file_name"])) for sample in samples]
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        common = os.path.commonpath([path.parent for path in paths])
        stems = ["_".join(path.relative_to(common).parts) for path in paths]
    return zip(stems, samples, strict=True)


class Checkpointer(RefusesUntrained, HieraCheckpointer):
    pass


def load_predictor(cfg: CfgNode, opts: list[str]) -> HieraPredictor:
    weights = cfg.MODEL.WEIGHTS
    model = build_model(cfg)
    checkpointer = Checkpointer(model, save_dir=cfg.OUTPUT_DIR)
    if "MODEL.WEIGHTS" not in opts and checkpointer.has_checkpoint():
        weights = checkpointer.get_checkpoint_file()
    if not weights:
        raise CheckpointError(
            f"no weights: there is no checkpoint in OUTPUT_DIR {cfg.OUTPUT_DIR}, and MODEL.WEIGHTS "
            "is empty; train first, or add --opts MODEL.WEIGHTS FILE"
        )
    checkpointer.load(weights)
    print(f"weights: {weights}")
    return HieraPredictor(cfg, model)


def describe(labels: np.ndarray, hierarchy: Hierarchy) -> str:
    """The largest classes of a picture with their shares."""
    counts = np.bincount(labels.ravel(), minlength=hierarchy.num_nodes)
    largest = np.argsort(-counts, kind="stable")[:5]
    shares = [f"{hierarchy.display_names[v]} {counts[v] / labels.size:.0%}" for v in largest]
    return ", ".join(share for share, v in zip(shares, largest, strict=True) if counts[v])


if __name__ == "__main__":
    exit_on_error(main, parse_args())
