#!/usr/bin/env python
"""Make the Pascal-Person-Part folders of hiera_seg from VOC2010 and the part annotations."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from tqdm import tqdm

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.cli.exit import exit_on_error
from hiera_seg.data import read_image_file
from hiera_seg.data.datasets.pascal_person_part import PARTS, ROOT, SPLIT_SIZES
from hiera_seg.data.image_files import check_same_size
from hiera_seg.data.listing import expand_root, read_list
from hiera_seg.disk import naming, replace_text
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy

EPILOG = """
VOC2010 (trainval) has its images in JPEGImages/ and its splits in ImageSets/Main/; the part
annotations of Chen et al. are one .mat file per image, in Annotations_Part/. Written are
images/*.jpg, labels/*.png (0 background, 1 to 6 the parts), train.txt and test.txt: the images of
VOC2010's train and val that show an annotated part of a person, 1716 and 1817 in the published
split.

example:
  datasets/prepare_pascal_person_part.py --voc VOCdevkit/VOC2010 --parts Annotations_Part
"""
VOC_SPLITS = {"train": "train", "test": "val"}  # ours by VOC's


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("--voc", required=True, type=Path, help="folder VOCdevkit/VOC2010")
    parser.add_argument("--parts", required=True, type=Path, help="folder Annotations_Part (*.mat)")
    parser.add_argument(
        "--lists", type=Path, metavar="DIR",
        help="folder with a train.txt and a test.txt of your own, instead of VOC2010's splits",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        default=ROOT,
        help="default: pascal_person_part below $DETECTRON2_DATASETS, else ./datasets",
    )
    parser.add_argument(
        "--long-side", type=int, metavar="N", help="shrink images to N pixels; default: as they are"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if args.long_side is not None and args.long_side < 1:
        raise ConfigError(f"--long-side is {args.long_side}; it must be 1 or more")
    images = args.voc / "JPEGImages"
    for folder in (images, args.parts):
        if not folder.is_dir():
            raise DatasetError(f"folder not found: {folder}")
    splits = {}
    for ours, theirs in VOC_SPLITS.items():
        voc_list = args.voc / f"ImageSets/Main/{theirs}.txt"
        splits[ours] = args.lists / f"{ours}.txt" if args.lists else voc_list
    names = {split: [x.split()[0] for x in read_list(path)] for split, path in splits.items()}
    out = Path(expand_root(args.out))
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)

    for split, stems in names.items():
        written = []
        for stem in tqdm(stems, desc=split, disable=None):
            annotation = args.parts / f"{stem}.mat"
            if not annotation.is_file() and not args.lists:
                continue  # VOC's splits list all images, also those without annotations
            label = read_parts(annotation)
            if label is None and not args.lists:
                continue
            write_pair(images / f"{stem}.jpg", annotation, label, out, args.long_side)
            written.append(stem)
        replace_text(out / f"{split}.txt", "".join(f"{stem}\n" for stem in written))
        note = "" if len(written) == SPLIT_SIZES[split] else f" (published: {SPLIT_SIZES[split]})"
        print(f"wrote {len(written)} images of {split}{note} to {out}")


def read_parts(path: Path) -> np.ndarray | None:
    """Return the benchmark's ids of one annotation file.

    If parts overlap, the later one of the file counts. Pixels of a person outside of its parts are
    background, and so are parts of other objects, as in the published labels.

    Args:
        path: a .mat file of the release.

    Returns:
        (H, W) uint8, 0..6; None if no person in it has a part.
    """
    if not path.is_file():
        raise DatasetError(f"annotation file not found: {path}")
    ids = class_of_part()
    try:
        content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
        objects = np.atleast_1d(content["anno"].objects)
        label, has_person = None, False
        for item in objects:
            is_person = item.__dict__["class"] == "person"
            for part in np.atleast_1d(item.parts):
                if is_person and part.part_name not in ids:
                    raise DatasetError(
                        f"{path}: unknown part {part.part_name!r} of a person; known are "
                        f"{', '.join(ids)}"
                    )
                mask = np.atleast_2d(part.mask)
                if label is None:
                    label = np.zeros(mask.shape, np.uint8)
                label[mask.astype(bool)] = ids[part.part_name] if is_person else 0
                has_person |= is_person
        return label if has_person else None
    except DatasetError:
        raise
    except Exception as error:  # SciPy raises errors of many types for damaged files
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{path} is not a part annotation (a struct 'anno' with 'objects' that have 'class' "
            f"and 'parts'): {type(error).__name__}: {reason}"
        ) from error


def class_of_part() -> dict[str, int]:
    """Return {name of a part in the release: id of the benchmark's class}."""
    tree = Hierarchy.load("pascal_person_part")
    return {part: int(tree.id(name)) for name, parts in PARTS.items() for part in parts}


def write_pair(
    image_path: Path, annotation: Path, label: np.ndarray | None, out: Path, long_side: int | None
) -> None:
    """Write images/<stem>.jpg and labels/<stem>.png; without a label, all is background."""
    size = read_image_file(str(image_path)).shape[:2]
    if label is None:
        label = np.zeros(size, np.uint8)
    check_same_size(str(image_path), size, str(annotation), label.shape)
    target, pixels = out / "images" / image_path.name, Image.fromarray(label)
    scale = 1.0 if long_side is None else long_side / max(size)
    if scale < 1:
        small = tuple(max(1, round(side * scale)) for side in reversed(size))
        pixels = pixels.resize(small, Image.Resampling.NEAREST)
        image = Image.fromarray(read_image_file(str(image_path)))
        with naming(target):
            image.resize(small, Image.Resampling.LANCZOS).save(target, quality=90)
    else:
        shutil.copyfile(image_path, target)
    target = out / "labels" / f"{image_path.stem}.png"
    with naming(target):
        pixels.save(target)


if __name__ == "__main__":
    exit_on_error(main, parse_args())
