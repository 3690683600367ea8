#!/usr/bin/env python
"""Write the regions of a COCO json file, or of labelme's, as PNG label files of node ids."""

import argparse
import json
import os

from tqdm import tqdm

from hiera_seg.cli.arguments import add_import, tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_folder
from hiera_seg.disk import replace_text
from hiera_seg.hierarchy import Hierarchy

NAME = "to_convert"  # of the dataset, in this process only
TREE = "hierarchy.yaml"  # in the output folder
COCO = "annotations.json"  # there, too, if the source is not a COCO file

EPILOG = f"""
OUT gets a PNG file per image and {TREE}, the class tree of the ids. Then register
  register_hierarchical_dataset("mine", hierarchy="OUT/{TREE}",
      image_root="images", sem_seg_root="OUT")
A folder of labelme files is also written as one COCO file, OUT/{COCO}.

examples:
  tools/convert_annotations.py annotations/instances_val2017.json labels/val2017
  tools/convert_annotations.py export.json labels --hierarchy my_tree.yaml --background ground
  tools/convert_annotations.py labelme_folder labels --hierarchy my_tree.yaml
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "source", metavar="SOURCE", help="COCO json file, or folder of labelme files"
    )
    parser.add_argument("out", metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--hierarchy", metavar="TREE", help="built-in tree or file (default: the supercategories)"
    )
    parser.add_argument(
        "--background", metavar="LEAF", help="leaf of the pixels outside all regions (void)"
    )
    add_import(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.data import register_coco_hierarchical
    from hiera_seg.data.catalog import import_modules
    from hiera_seg.data.label_writer import convert_labels
    from hiera_seg.data.labelme import coco_from_labelme

    # isort: split
    from detectron2.data import DatasetCatalog, MetadataCatalog

    import_modules(args.modules, tool=__file__)
    prepare_folder(args.out, "OUT")
    source = args.source
    if os.path.isdir(source):
        source = os.path.join(args.out, COCO)
        replace_text(source, json.dumps(coco_from_labelme(args.source)))
    # Images are not read, so that any folder will do.
    folder = os.path.dirname(source) or "."
    options = {"hierarchy": args.hierarchy, "background": args.background}
    register_coco_hierarchical(NAME, source, folder, **options)
    total = len(DatasetCatalog.get(NAME))
    written = convert_labels(NAME, args.out)
    count = sum(1 for _ in tqdm(written, total=total, disable=None))
    tree = Hierarchy.from_dict(**MetadataCatalog.get(NAME).hierarchy)
    tree.to_yaml(os.path.join(args.out, TREE))
    print(f"wrote {count} label files and {TREE} ({tree.num_leaves} leaves) to {args.out}")


if __name__ == "__main__":
    exit_on_error(main, parse_args())
