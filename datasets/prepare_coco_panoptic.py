#!/usr/bin/env python
"""Make semantic label files from COCO's panoptic annotations."""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.cli.exit import exit_on_error
from hiera_seg.data import read_image_file
from hiera_seg.data.datasets.coco import ROOT, SPLITS
from hiera_seg.data.json_files import read_json_file
from hiera_seg.data.listing import expand_root
from hiera_seg.disk import naming
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy

EPILOG = """
Below the folder lie annotations/panoptic_{train,val}2017.json and panoptic_{train,val}2017/*.png,
as released. Written are panoptic_semseg_{train,val}2017/*.png: grey, 0 to 132 the classes in the
order of the category list, 255 void.

example:
  datasets/prepare_coco_panoptic.py --splits val
"""
VOID = 255


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "--coco", default=ROOT, help="default: coco below $DETECTRON2_DATASETS, else ./datasets"
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: both")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        help="images to convert at once (default: all cores)",
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    root = Path(expand_root(args.coco))
    for split in args.splits:
        source, target = root / f"panoptic_{split}2017", root / f"panoptic_semseg_{split}2017"
        annotations, leaves = read_annotations(root / f"annotations/panoptic_{split}2017.json")
        if not source.is_dir():
            raise DatasetError(f"folder not found: {source}")
        target.mkdir(exist_ok=True)

        def convert(
            item: dict, source: Path = source, target: Path = target, leaves=leaves
        ) -> None:
            path = source / item["file_name"]
            label = decode(read_image_file(str(path), "RGB"), item["segments_info"], leaves, path)
            with naming(target / item["file_name"]):
                Image.fromarray(label).save(target / item["file_name"])

        with ThreadPoolExecutor(max(1, args.threads)) as pool:
            done = pool.map(convert, annotations)
            try:
                for _ in tqdm(done, total=len(annotations), desc=split, disable=None):
                    pass
            except (DatasetError, OSError):
                pool.shutdown(cancel_futures=True)
                raise
        print(f"wrote {len(annotations)} label files of {split} to {target}")


def read_annotations(path: Path) -> tuple[list[dict], dict[int, int]]:
    """Return the annotations of a panoptic json file, and {category id: leaf of the tree}."""
    content = read_json_file(str(path))
    for key in ("annotations", "categories"):
        if not isinstance(content, dict) or key not in content:
            raise DatasetError(f"{path} has no {key!r}; specify a panoptic json file of COCO")
    tree = Hierarchy.load("coco_panoptic")
    for keys, entries in (
        (("file_name", "segments_info"), content["annotations"]),
        (("id", "name", "supercategory", "isthing"), content["categories"]),
    ):
        lacking = [key for key in keys for entry in entries if key not in entry]
        if lacking:
            raise DatasetError(f"{path}: an entry lacks the key {lacking[0]!r}")
    leaves = {}
    for category in content["categories"]:
        kind = "thing" if category["isthing"] else "stuff"
        node = f"{kind}/{category['supercategory']}/{category['name']}"
        if node not in tree.paths:
            raise DatasetError(f"{path}: category {node!r} is not in the tree 'coco_panoptic'")
        leaves[category["id"]] = tree.paths.index(node)
    return content["annotations"], leaves


def decode(rgb: np.ndarray, segments: list[dict], leaves: dict[int, int], path: Path) -> np.ndarray:
    """Return the leaf of each pixel's segment.

    Args:
        rgb: (H, W, 3) uint8; the id of a segment is red + 256 green + 65536 blue, 0 is void.
        segments: dicts with ``id`` and ``category_id``.
        leaves: category id -> leaf.
        path: the image, for messages.

    Returns:
        (H, W) uint8, void 255.
    """
    ids, place = np.unique(rgb @ np.array([1, 1 << 8, 1 << 16]), return_inverse=True)
    leaf_of = {0: VOID}
    for segment in segments:
        if segment["category_id"] not in leaves:
            raise DatasetError(
                f"{path}: segment {segment['id']} has the category {segment['category_id']}, "
                "which its json file does not list"
            )
        leaf_of[segment["id"]] = leaves[segment["category_id"]]
    unknown = [i for i in ids.tolist() if i not in leaf_of]
    if unknown:
        raise DatasetError(f"{path}: segments {unknown[:5]} are not in its json file")
    return np.array([leaf_of[i] for i in ids.tolist()], np.uint8)[place].reshape(rgb.shape[:2])


if __name__ == "__main__":
    exit_on_error(main, parse_args())
