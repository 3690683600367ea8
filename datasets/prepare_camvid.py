#!/usr/bin/env python
"""Make the CamVid folders of hiera_seg from the official colour-coded release."""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.cli.exit import exit_on_error
from hiera_seg.data import read_image_file
from hiera_seg.data.datasets.camvid import CLASSES, ROOT
from hiera_seg.data.image_files import check_same_size
from hiera_seg.data.listing import expand_root
from hiera_seg.disk import naming
from hiera_seg.errors import ConfigError, DatasetError

EPILOG = """
The release has its images in 701_StillsRaw_full/, its labels in LabeledApproved_full/ and the
colours in label_colors.txt. Written are {images,labels}/{train,val,test}/ with the 367 / 101 / 233
frames that most papers use.

example:
  datasets/prepare_camvid.py --images 701_StillsRaw_full --labels LabeledApproved_full
"""
VOID = 255  # of colours without a class, with --unknown-as-void


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("--images", required=True, type=Path, help="folder of the stills (*.png)")
    parser.add_argument("--labels", required=True, type=Path, help="folder of the *_L.png files")
    parser.add_argument("--colors", type=Path, help="label_colors.txt, to compare with our table")
    parser.add_argument(
        "--out", default=ROOT, help="default: camvid below $DETECTRON2_DATASETS, else ./datasets"
    )
    parser.add_argument(
        "--size", default="480x360", help="WIDTHxHEIGHT, or 'original' (960x720); default 480x360"
    )
    parser.add_argument(
        "--quality", type=int, default=90, help="quality of the JPEG files (default 90)"
    )
    parser.add_argument(
        "--unknown-as-void", action="store_true", help="write void for colours without a class"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    size = parse_size(args.size)
    if args.colors:
        check_colors(args.colors)
    pairs = find_pairs(args.images, args.labels)
    out = Path(expand_root(args.out))
    counts: dict[str, int] = {}
    for split, image_path, label_path in tqdm(pairs, disable=None):
        image = Image.fromarray(read_image_file(str(image_path), "RGB"))
        ids = decode_colors(
            read_image_file(str(label_path), "RGB"), label_path, args.unknown_as_void
        )
        label = Image.fromarray(ids)
        check_same_size(str(image_path), image.size[::-1], str(label_path), ids.shape)
        if size is not None:
            image = image.resize(size, Image.Resampling.LANCZOS)
            label = label.resize(size, Image.Resampling.NEAREST)
        for folder, written, suffix in (("images", image, "jpg"), ("labels", label, "png")):
            target = out / folder / split / f"{image_path.stem}.{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with naming(target):
                written.save(target, quality=args.quality)
        counts[split] = counts.get(split, 0) + 1
    summary = ", ".join(f"{counts[split]} {split}" for split in sorted(counts))
    print(f"wrote {len(pairs)} frames ({summary}) to {out}")


def parse_size(text: str) -> tuple[int, int] | None:
    """Return (width, height), or None to keep the size of each frame."""
    if text == "original":
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"--size {text!r}: specify WIDTHxHEIGHT, such as 480x360, or original")
    return int(width), int(height)


def split_of(frame: str) -> str:
    """Return the split of a frame by its name, as used since SegNet (367 / 101 / 233 frames).

    Train and test share the dusk sequence; test adds a daylight sequence, train two others; val is
    a clip at 15 Hz of one of them.

    Args:
        frame: stem of the image file, such as "0016E5_07959".

    Raises:
        ValueError: the name does not belong to one of the four sequences.
    """
    sequence, _, number = frame.partition("_")
    digits = number.removeprefix("f")
    if sequence in ("0001TP", "0006R0", "0016E5", "Seq05VD") and digits.isdecimal():
        if sequence == "Seq05VD" or (sequence == "0001TP" and int(digits) >= 8550):
            return "test"
        is_clip = sequence == "0016E5" and 7959 <= int(digits) <= 8159 and int(digits) % 2 == 1
        return "val" if is_clip else "train"
    raise ValueError(
        f"{frame!r} is not a frame of CamVid (0001TP_..., 0006R0_f..., 0016E5_..., Seq05VD_f...)"
    )


def find_pairs(images: Path, labels: Path) -> list[tuple[str, Path, Path]]:
    """Return (split, image, label) of every frame, sorted by name."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise DatasetError(f"folder not found: {folder}")
    stills = {path.stem: path for path in sorted(images.glob("*.png"))}
    coded = {path.stem.removesuffix("_L"): path for path in sorted(labels.glob("*_L.png"))}
    for found, other, what in ((stills, coded, "label"), (coded, stills, "image")):
        alone = [str(path) for stem, path in found.items() if stem not in other]
        if alone:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            raise DatasetError(f"no {what} for {', '.join(alone[:3])}{more}")
    if not stills:
        raise DatasetError(f"no *.png below {images}")
    try:
        return [(split_of(stem), stills[stem], coded[stem]) for stem in stills]
    except ValueError as error:
        raise DatasetError(f"{images}: {error}") from error


def decode_colors(rgb: np.ndarray, path: os.PathLike, unknown_as_void: bool = False) -> np.ndarray:
    """Return the id of each pixel's colour.

    Args:
        rgb: (H, W, 3) uint8.
        path: the file, for messages.
        unknown_as_void: return 255 for a colour without a class, instead of an error.

    Returns:
        (H, W) uint8.
    """
    packed = (rgb.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(axis=-1)
    known = np.array([(r << 16) + (g << 8) + b for _, (r, g, b) in CLASSES])
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], packed), len(known) - 1)
    ids = order[place]
    unknown = known[ids] != packed
    if unknown.any() and not unknown_as_void:
        colors, first, count = np.unique(packed[unknown], return_index=True, return_counts=True)
        found = []
        for color, index, number in list(zip(colors.tolist(), first, count, strict=True))[:5]:
            y, x = np.argwhere(unknown)[index]
            found.append(
                f"({color >> 16}, {color >> 8 & 255}, {color & 255}) {number}x, at x={x} y={y}"
            )
        raise DatasetError(
            f"{path}: {len(colors)} unknown colour(s): {'; '.join(found)}; --unknown-as-void "
            "writes void for them"
        )
    return np.where(unknown, VOID, ids).astype(np.uint8)


def check_colors(path: Path) -> None:
    """Compare a label_colors.txt (lines "R G B name") with the table of this package."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    ours = dict(CLASSES)
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        *color, name = words
        if ours.get(name) != tuple(int(c) for c in color if c.isdecimal()):
            raise DatasetError(
                f"{path}, line {number}: {line.strip()!r} differs from our table, "
                f"where {name} is {ours.get(name, 'not a class')}"
            )


if __name__ == "__main__":
    exit_on_error(main, parse_args())
