#!/usr/bin/env python
"""Segment images, videos and webcam pictures with a trained model, at every level of its tree."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import hiera_seg.compat  # noqa: F401  (first: loads Detectron2 without its warnings)

# isort: split
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from hiera_seg.checkpoint import allow_unsafe_pickle
from hiera_seg.cli import add_import, add_opts, add_unsafe_pickle, exit_on_error, load_config
from hiera_seg.cli.exit import prepare_folder
from hiera_seg.config import resolve_hierarchy, resolve_ignore_label
from hiera_seg.data import LabelReader
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.data.image_files import check_same_size
from hiera_seg.data.images import ImageReader
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference.media import VideoFrames, find_media, is_video, output_stems
from hiera_seg.report.run import spread_over

try:
    from hiera_seg.inference.predictions import (
        KINDS,
        PredictionWriter,
        load_predictor,
        refuse_overwriting,
    )
except ImportError as missing:  # OpenCV
    sys.exit(f"error: {missing}")

EPILOG = """
examples:
  your own images and videos
    tools/demo.py --config-file CONFIG --input 'images/*.jpg' drive.mp4 --output out/
  images of the config's test set beside their ground truth
    tools/demo.py --config-file CONFIG --output out/ --num 8
  the first webcam, to Ctrl-C
    tools/demo.py --config-file CONFIG --webcam --output out/
  label maps and COCO's run-length encoding, for other programs
    tools/demo.py --config-file CONFIG --input images/ --output out/ --write labels rle
  several sizes, each also mirrored (docs/inference.md)
    tools/demo.py --config-file CONFIG --input street.jpg --output out/ \\
        --opts TEST.AUG.ENABLED True TEST.AUG.MIN_SIZES "(256, 384, 512)"
  with other weights, and inner nodes wherever the model is not sure of a leaf
    tools/demo.py --config-file CONFIG --input street.jpg --output out/ --safe-depth 0.6 \\
        --opts MODEL.WEIGHTS model.pth

Weights: MODEL.WEIGHTS of --opts, else the last checkpoint in the config's OUTPUT_DIR, else
MODEL.WEIGHTS of the config file. Of street.jpg it writes street_<level>.png (overlay),
street-ids-<level>.png (PNG of node ids) and street-levels.png (all of them side by side); of
drive.mp4 drive_<level>.mp4. docs/inference.md tells all of them. An input that can not be read is
told in a line; the others are done, and the exit code is 1.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--input", nargs="+", metavar="FILE", help="images, videos, folders, or quoted globs"
    )
    source.add_argument(
        "--webcam", nargs="?", type=int, const=0, metavar="N", help="camera to look through (0)"
    )
    source.add_argument(
        "--dataset", metavar="NAME",
        help="take images of this dataset and show its labels beside the prediction "
        "(default: the first of DATASETS.TEST)",
    )  # fmt: skip
    parser.add_argument("--num", type=int, default=4, help="images to take of a dataset (4)")
    parser.add_argument("--max-frames", type=int, metavar="N", help="of each video or the webcam")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="for results")
    parser.add_argument("--level", metavar="NAME", help="write results of this level only")
    parser.add_argument(
        "--write", nargs="+", choices=KINDS, metavar="KIND",
        help=f"what to write, of: {', '.join(KINDS)} (overlay, labels and strip of images, overlay "
        "of videos)",
    )  # fmt: skip
    parser.add_argument(
        "--safe-depth", type=float, metavar="T",
        help="stop at an inner node where the best child scores below this (as the config says)",
    )  # fmt: skip
    parser.add_argument("--alpha", type=float, default=0.55, help="opacity of colours, 0..1 (0.55)")
    add_unsafe_pickle(parser)
    add_import(parser)
    add_opts(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    allow_unsafe_pickle(args.unsafe_pickle)
    import_modules(args.modules, tool=__file__)
    cfg = load_config(args.config_file, args.opts, allow_remote=args.allow_remote)
    cfg.MODEL.HIERA_SEG.TEST.OUTPUT = "labels"
    cfg.MODEL.HIERA_SEG.TEST.DIRECT = False
    hierarchy = resolve_hierarchy(cfg)
    check_arguments(args, cfg, hierarchy)
    samples, missing = samples_of(args)
    read_truth = label_reader(args.dataset, hierarchy, cfg) if args.dataset else None
    read_image = ImageReader.from_config(cfg, "BGR")
    inputs = [sample["file_name"] for _, sample in samples if args.webcam is None]
    refuse_overwriting([stem for stem, _ in samples], inputs, args.output, hierarchy)
    prepare_folder(args.output, "--output")
    predictor, weights = load_predictor(cfg, args.opts)
    print(f"weights: {weights}")

    failed = missing
    options = {"level": args.level, "kinds": args.write, "alpha": args.alpha}
    try:
        with PredictionWriter(
            predictor, args.output, safe_depth=args.safe_depth, **options
        ) as writer:
            for stem, sample in tqdm(samples, disable=None if len(samples) > 1 else True):
                task = partial(predict, writer, stem, sample, read_image, read_truth, args)
                failed += not run(task, args.output)
    except OSError as error:
        raise DatasetError(describe_os_error(error, args.output)) from error
    total = len(samples) + missing
    print(f"{total - failed} of {total} {what_of(samples)} written to {args.output}")
    if failed:
        sys.exit(1)


def run(task: Callable[[], str], output: Path) -> bool:
    """Do a task and say what came out, or in one line why it failed: the others may be good."""
    try:
        tqdm.write(task())
        return True
    except DatasetError as error:
        message = str(error)
    except OSError as error:
        message = describe_os_error(error, output)
    tqdm.write(f"error: {' '.join(message.split())}", file=sys.stderr)
    return False


def predict(
    writer: PredictionWriter,
    stem: str,
    sample: dict[str, Any],
    read_image: ImageReader,
    read_truth: LabelReader | None,
    args: argparse.Namespace,
) -> str:
    """Predict on an image, a video or the webcam; a line about the result."""
    name = sample["file_name"]
    if isinstance(name, int) or (read_truth is None and is_video(name)):
        with VideoFrames(name) as frames:
            count = writer.add_video(stem, frames, partial(show_progress, frames, args.max_frames))
            return f"{frames.name}: {count} frames"
    image = read_image(name)
    truth = None
    if read_truth is not None and "sem_seg_file_name" in sample:
        truth = read_truth(sample["sem_seg_file_name"])
        check_same_size(name, image.shape[:2], sample["sem_seg_file_name"], truth.shape)
    return f"{name}: {writer.add_image(stem, name, image, truth)}"


def show_progress(
    source: VideoFrames, max_frames: int | None, frames: Iterable[np.ndarray]
) -> Iterable[np.ndarray]:
    totals = [n for n in (source.num_frames, max_frames) if n is not None]
    return tqdm(
        islice(frames, max_frames), desc=source.name, total=min(totals, default=None),
        unit="frame", leave=False, disable=None,
    )  # fmt: skip


def check_arguments(args: argparse.Namespace, cfg: CfgNode, hierarchy: Hierarchy) -> None:
    if args.level is not None and args.level not in hierarchy.level_names:
        raise ConfigError(
            f"--level is {args.level!r}; the levels of tree {hierarchy.name!r} are "
            f"{', '.join(hierarchy.level_names)}"
        )
    if not 0 <= args.alpha <= 1:
        raise ConfigError(f"--alpha is {args.alpha}; it must lie in 0..1")
    if args.safe_depth is not None and not args.safe_depth >= 0:
        raise ConfigError(f"--safe-depth is {args.safe_depth}; it must be a score of 0 or more")
    for name, value in (("--num", args.num), ("--max-frames", args.max_frames)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be 1 or more")
    if args.webcam is not None and args.webcam < 0:
        raise ConfigError(f"--webcam is {args.webcam}; cameras are numbered from 0")
    if cfg.MODEL.META_ARCHITECTURE != "HieraSegmentor":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE of {args.config_file} is {cfg.MODEL.META_ARCHITECTURE}; the "
            "levels are drawn of a HieraSegmentor"
        )
    if args.input or args.dataset or args.webcam is not None:
        where = "--dataset"
    elif cfg.DATASETS.TEST:
        args.dataset, where = cfg.DATASETS.TEST[0], "DATASETS.TEST"
    else:
        raise ConfigError("DATASETS.TEST is empty; give images with --input, or a --dataset")
    if args.dataset:
        require_registered([args.dataset], where)


def samples_of(args: argparse.Namespace) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Dicts of what to predict on, as a dataset has them, each with a name to write files under;
    and how many inputs named nothing."""
    if args.webcam is not None:
        return [("webcam", {"file_name": args.webcam})], 0
    if args.dataset:
        samples = spread_over(args.dataset, args.num)
        return list(zip(output_stems([s["file_name"] for s in samples]), samples, strict=True)), 0
    found = {pattern: find_media(pattern) for pattern in args.input}
    empty = [
        f"--input {name}: no image or video found" for name, paths in found.items() if not paths
    ]
    if len(empty) == len(found):
        raise ConfigError("; ".join(empty))
    for message in empty:
        print(f"error: {message}", file=sys.stderr)
    paths = list(dict.fromkeys(path for paths in found.values() for path in paths))
    samples = [{"file_name": path} for path in paths]
    return list(zip(output_stems(paths), samples, strict=True)), len(empty)


def label_reader(dataset: str, hierarchy: Hierarchy, cfg: CfgNode) -> LabelReader:
    reader = LabelReader.from_metadata(MetadataCatalog.get(dataset), cfg.INPUT.EXIF)
    if reader.hierarchy == hierarchy:
        return reader
    return reader.to_hierarchy(hierarchy, resolve_ignore_label(cfg, hierarchy))


def describe_os_error(error: OSError, output: Path) -> str:
    if error.strerror is None:
        return str(error)
    # a disk that is full does not say for which file
    return f"cannot write {error.filename or f'into {output}'}: {error.strerror}"


def what_of(samples: Sequence[tuple[str, dict[str, Any]]]) -> str:
    names = [sample["file_name"] for _, sample in samples]
    if isinstance(names[0], int):
        return "webcams"
    videos = sum(map(is_video, names))
    if not videos:
        return "images"
    return "videos" if videos == len(names) else "images and videos"


def command_line() -> None:
    exit_on_error(main, parse_args())


if __name__ == "__main__":
    command_line()
