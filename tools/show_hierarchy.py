#!/usr/bin/env python
"""Print a class tree with its node ids, or draw it with its colours."""

import argparse
import os
import sys
from pathlib import Path

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy, builtin_names

EPILOG = """
examples:
  a built-in tree
    tools/show_hierarchy.py cityscapes
  a custom tree, drawn as the legend of overlays
    tools/show_hierarchy.py my_tree.yaml --png my_tree.png
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "tree",
        metavar="NAME|FILE",
        help=f"built-in tree ({', '.join(builtin_names())}), or a .yaml, .json or .csv file",
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="image file to draw the tree to")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    hierarchy = Hierarchy.load(args.tree)
    sys.stdout.reconfigure(errors="replace")  # as exit_on_error does, which needs Detectron2
    print(hierarchy)
    if args.png is None:
        return
    try:
        draw(hierarchy, args.png)
    except ImportError as missing:  # OpenCV, or Detectron2
        sys.exit(f"error: {missing}")


def draw(hierarchy: Hierarchy, path: Path) -> None:
    from PIL import Image  # not needed to print a tree

    from hiera_seg.cli.exit import exit_on_error, prepare_file
    from hiera_seg.disk import replace_file
    from hiera_seg.visualization import legend

    columns = -(-hierarchy.num_nodes // 50)
    exit_on_error(prepare_file, path, "--png")
    drawing = Image.fromarray(legend(hierarchy, columns=columns, ids=True))
    exit_on_error(replace_file, path, lambda file: drawing.save(file, "PNG"))
    print(f"drawn: {path}")


if __name__ == "__main__":
    arguments = parse_args()
    try:
        main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # after `| head`; discard the remaining output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (HierarchyError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        known = arguments.tree in builtin_names() or Path(arguments.tree).exists()
        sys.exit(1 if known else 2)
