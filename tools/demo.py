#!/usr/bin/env python
"""Segment images, videos and webcam frames with a trained model, at every level of its tree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from hiera_seg.cli import add_config, exit_on_error, tool_parser
from hiera_seg.cli.arguments import check_at_least
from hiera_seg.cli.exit import prepare_folder
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from hiera_seg.inference.media import VideoFrames
    from hiera_seg.inference.predictions import PredictionWriter
    from hiera_seg.report.samples import SampleReader

KINDS = ("overlay", "labels", "strip", "rle")  # of outputs
EPILOG = """
examples:
  your own images and videos
    tools/demo.py --config-file CONFIG --input 'images/*.jpg' drive.mp4 --output out/
  images of the config's test set beside their ground truth
    tools/demo.py --config-file CONFIG --output out/ --num 8
  the first webcam, until Ctrl-C
    tools/demo.py --config-file CONFIG --webcam --output out/
  label maps and COCO's run-length encoding
    tools/demo.py --config-file CONFIG --input images/ --output out/ --write labels rle
  several sizes, each also mirrored (docs/inference.md)
    tools/demo.py --config-file CONFIG --input street.jpg --output out/ \\
        --opts TEST.AUG.ENABLED True TEST.AUG.MIN_SIZES "(256, 384, 512)"
  with other weights, and inner nodes where the confidence in leaves is low
    tools/demo.py --config-file CONFIG --input street.jpg --output out/ --safe-depth 0.6 \\
        --opts MODEL.WEIGHTS model.pth

Weights: MODEL.WEIGHTS of --opts, else the last checkpoint in the config's OUTPUT_DIR, else
MODEL.WEIGHTS of the config file. Outputs for street.jpg are street_<level>.png (overlay),
street-ids-<level>.png (PNG of node ids) and street-levels.png (all levels side by side), for
drive.mp4 drive_<level>.mp4 (docs/inference.md). If an input cannot be read, the others are still
segmented, and the exit code is 1.
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
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
        help="stop at an inner node where the best child scores below this (default: the config's)",
    )  # fmt: skip
    parser.add_argument("--alpha", type=float, default=0.55, help="opacity of colours, 0..1 (0.55)")
    add_config(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.cli import read_config
    from hiera_seg.config import resolve_hierarchy
    from hiera_seg.report.samples import SampleReader

    try:
        from hiera_seg.inference.predictions import (
            PredictionWriter,
            load_predictor,
            refuse_overwriting,
        )
    except ImportError as missing:  # OpenCV
        sys.exit(f"error: {missing}")

    cfg = read_config(args, tool=__file__)
    cfg.MODEL.HIERA_SEG.TEST.OUTPUT = "labels"
    cfg.MODEL.HIERA_SEG.TEST.DIRECT = False
    hierarchy = resolve_hierarchy(cfg)
    check_arguments(args, cfg, hierarchy)
    samples, missing = samples_of(args)
    read = SampleReader(cfg, args.dataset, hierarchy)
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
                task = partial(predict, writer, stem, sample, read, args)
                failed += not attempt(task, args.output)
    except OSError as error:
        raise DatasetError(describe_os_error(error, args.output)) from error
    total = len(samples) + missing
    print(f"{total - failed} of {total} {what_of(samples)} written to {args.output}")
    if failed:
        sys.exit(1)


def attempt(task: Callable[[], str], output: Path) -> bool:
    """Print the result of a task, or its error in one line; return whether it succeeded."""
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
    read: SampleReader,
    args: argparse.Namespace,
) -> str:
    """Segment an image, a video or the frames of a webcam; return a line about the result."""
    from hiera_seg.inference.media import VideoFrames, is_video

    name = sample["file_name"]
    if isinstance(name, int) or (not args.dataset and is_video(name)):
        with VideoFrames(name) as frames:
            count = writer.add_video(stem, frames, partial(show_progress, frames, args.max_frames))
            return f"{frames.name}: {count} frames"
    image, truth = read(sample)
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    return f"{name}: {writer.add_image(stem, name, bgr, truth)}"


def show_progress(
    source: VideoFrames, max_frames: int | None, frames: Iterable[np.ndarray]
) -> Iterable[np.ndarray]:
    totals = [n for n in (source.num_frames, max_frames) if n is not None]
    return tqdm(
        islice(frames, max_frames), desc=source.name, total=min(totals, default=None),
        unit="frame", leave=False, disable=None,
    )  # fmt: skip


def check_arguments(args: argparse.Namespace, cfg: CfgNode, hierarchy: Hierarchy) -> None:
    from hiera_seg.data.catalog import require_registered

    if args.level is not None and args.level not in hierarchy.level_names:
        raise ConfigError(
            f"--level is {args.level!r}; the levels of tree {hierarchy.name!r} are "
            f"{', '.join(hierarchy.level_names)}"
        )
    if not 0 <= args.alpha <= 1:
        raise ConfigError(f"--alpha is {args.alpha}; it must lie in 0..1")
    check_at_least(args, safe_depth=0, num=1, max_frames=1, webcam=0)
    if cfg.MODEL.META_ARCHITECTURE != "HieraSegmentor":
        raise ConfigError(
            f"{args.config_file}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; only a "
            "HieraSegmentor predicts levels"
        )
    if args.input or args.dataset or args.webcam is not None:
        where = "--dataset"
    elif cfg.DATASETS.TEST:
        args.dataset, where = cfg.DATASETS.TEST[0], "DATASETS.TEST"
    else:
        raise ConfigError("DATASETS.TEST is empty; specify images with --input, or a --dataset")
    if args.dataset:
        require_registered([args.dataset], where)


def samples_of(args: argparse.Namespace) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Return (start of output names, dict) of each input, and the number of missing inputs."""
    from hiera_seg.inference.media import find_media, output_stems
    from hiera_seg.report.samples import spread_over

    if args.webcam is not None:
        return [("webcam", {"file_name": args.webcam})], 0
    if args.dataset:
        samples = list(spread_over(args.dataset, args.num).values())
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


def describe_os_error(error: OSError, output: Path) -> str:
    if error.strerror is None:
        return str(error)
    # A full disk does not report the file
    return f"cannot write {error.filename or f'into {output}'}: {error.strerror}"


def what_of(samples: Sequence[tuple[str, dict[str, Any]]]) -> str:
    from hiera_seg.inference.media import is_video

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
