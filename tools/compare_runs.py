#!/usr/bin/env python
"""Compare evaluations on one test set, and tell differences from the noise of its images."""

import argparse
import json
import os

from hiera_seg.cli.arguments import tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_folder
from hiera_seg.disk import replace_text

EPILOG = """
RUN is the OUTPUT_DIR of an evaluation (of tools/train_net.py or tools/evaluate_predictions.py). The
first run is the baseline. Runs of one setup with several random seeds are joined by commas; the
i-th run of a setup is paired with the i-th run of the baseline.

examples:
  tools/compare_runs.py output/flat output/hssn
  tools/compare_runs.py output/flat_s0,output/flat_s1 output/hssn_s0,output/hssn_s1 --output seeds
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("baseline", metavar="RUN_A", help="run, or runs joined by commas")
    parser.add_argument("others", metavar="RUN_B", nargs="+", help="what is compared with it")
    parser.add_argument(
        "--output", metavar="DIR", default="comparison",
        help="folder of comparison.json and comparison.png (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the images (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="of the intervals (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.resamples < 1:
        parser.error(f"--resamples: {args.resamples} is below 1")
    if not 0 < args.confidence < 1:
        parser.error(f"--confidence: {args.confidence} is not between 0 and 1")
    return args


def main(args: argparse.Namespace) -> None:
    from hiera_seg.evaluation.comparison import compare_runs, comparison_tables, read_run
    from hiera_seg.evaluation.comparison_plot import plot_comparison

    setups = [setup.split(",") for setup in (args.baseline, *args.others)]
    names = short_names([setup[0] for setup in setups])
    runs = [[read_run(folder) for folder in setup] for setup in setups]
    prepare_folder(args.output, "--output")
    found = [
        compare_runs(
            runs[0],
            other,
            names=(names[0], name),
            num_resamples=args.resamples,
            confidence=args.confidence,
        )
        for name, other in zip(names[1:], runs[1:], strict=True)
    ]
    print("\n\n\n".join(comparison_tables(one) for one in found))
    print(
        f"\ninterval: {100 * args.confidence:g} % of {args.resamples} resamples of the images. Of "
        f"many classes, {100 * (1 - args.confidence):.2g} % differ by chance alone."
    )
    content = {
        "resamples": args.resamples,
        "confidence": args.confidence,
        "comparisons": [
            {"runs": {"baseline": setups[0], "other": setup}, **one.as_dict()}
            for setup, one in zip(setups[1:], found, strict=True)
        ],
    }
    plot = os.path.join(args.output, "comparison.png")
    table = os.path.join(args.output, "comparison.json")
    replace_text(table, json.dumps(content, indent=1, allow_nan=False))
    plot_comparison(found, plot)
    print(f"wrote {table} and {plot}")


def short_names(folders: list[str]) -> list[str]:
    """Return the shortest ends of paths that tell them apart."""
    parts = [os.path.abspath(folder).split(os.sep) for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(folders)):
            return names
    return folders


if __name__ == "__main__":
    exit_on_error(main, parse_args())
