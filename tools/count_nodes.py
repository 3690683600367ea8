#!/usr/bin/env python
"""Count the pixels of every class over training sets, to weight rare classes."""

import argparse

from hiera_seg.cli.arguments import add_exif, add_import, tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_file

EPILOG = """
example: CamVid, weighted by the inverse square root of class frequencies
  tools/count_nodes.py hiera_camvid_train --output camvid_counts.json
  tools/train_net.py --config-file configs/CamVid/hssn_deeplab_v3_plus_r18.yaml \\
      MODEL.HIERA_SEG.NODE_WEIGHTS.METHOD inverse_sqrt \\
      MODEL.HIERA_SEG.NODE_WEIGHTS.FILE camvid_counts.json
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a registered dataset")
    parser.add_argument("--output", required=True, metavar="FILE", help="json file to write")
    add_exif(parser)
    add_import(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from hiera_seg.data.catalog import import_modules, require_registered
    from hiera_seg.data.node_counts import count_nodes
    from hiera_seg.losses import write_node_counts

    import_modules(args.modules, tool=__file__)
    require_registered(args.names, "NAME")
    prepare_file(args.output, "--output")
    counts = count_nodes(args.names, progress=True, exif=args.exif)
    write_node_counts(
        args.output, counts.pixels, datasets=args.names, images=counts.images, void=counts.void
    )
    absent = sum(not count for count in counts.pixels.values())
    print(
        f"wrote {args.output}: {sum(counts.pixels.values())} pixels of {counts.images} images, "
        f"{len(counts.pixels)} nodes, {absent} of them without labels"
    )


if __name__ == "__main__":
    exit_on_error(main, parse_args())
