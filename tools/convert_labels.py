#!/usr/bin/env python
"""Write the labels of a dataset as grey PNGs of node ids, for tools that read files as they are."""

import argparse

import hiera_seg.compat  # noqa: F401  (first: loads Detectron2 without its warnings)

# isort: split
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from hiera_seg.cli.arguments import add_exif, add_import
from hiera_seg.cli.exit import exit_on_error, prepare_folder
from hiera_seg.data.catalog import import_modules, require_registered
from hiera_seg.data.label_writer import convert_labels

EPILOG = """
example: Detectron2's own SemSegEvaluator on CamVid
  tools/convert_labels.py hiera_camvid_test datasets/camvid_ids/test --leaves
  register_hierarchical_dataset("camvid_ids_test", hierarchy="camvid",
      image_root="datasets/camvid/images/test", sem_seg_root="datasets/camvid_ids/test")
  SemSegEvaluator("camvid_ids_test")
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help="a registered dataset")
    parser.add_argument("out", metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--leaves", action="store_true", help="write void where a label is an inner node"
    )
    add_exif(parser)
    add_import(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import_modules(args.modules, tool=__file__)
    require_registered([args.name], "NAME")
    prepare_folder(args.out, "OUT")
    total = len(DatasetCatalog.get(args.name))
    written = convert_labels(args.name, args.out, leaves=args.leaves, exif=args.exif)
    count = sum(1 for _ in tqdm(written, total=total, disable=None))
    print(f"wrote {count} label files of {args.name} to {args.out}")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
