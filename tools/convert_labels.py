#!/usr/bin/env python
"""Write the labels of a dataset as grayscale PNGs of node ids, for tools of other projects."""

import argparse

from tqdm import tqdm

from hiera_seg.cli.arguments import add_exif, add_import, tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_folder

EPILOG = """
example: Detectron2's own SemSegEvaluator on CamVid
  tools/convert_labels.py hiera_camvid_test datasets/camvid_ids/test --leaves
  register_hierarchical_dataset("camvid_ids_test", hierarchy="camvid",
      image_root="datasets/camvid/images/test", sem_seg_root="datasets/camvid_ids/test")
  SemSegEvaluator("camvid_ids_test")
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("name", metavar="NAME", help="a registered dataset")
    parser.add_argument("out", metavar="OUT", help="folder to write to")
    parser.add_argument("--leaves", action="store_true", help="write inner nodes as void")
    add_exif(parser)
    add_import(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.data.catalog import import_modules, require_registered
    from hiera_seg.data.label_writer import convert_labels

    # isort: split
    from detectron2.data import DatasetCatalog

    import_modules(args.modules, tool=__file__)
    require_registered([args.name], "NAME")
    prepare_folder(args.out, "OUT")
    total = len(DatasetCatalog.get(args.name))
    written = convert_labels(args.name, args.out, leaves=args.leaves, exif=args.exif)
    count = sum(1 for _ in tqdm(written, total=total, disable=None))
    print(f"wrote {count} label files of {args.name} to {args.out}")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
