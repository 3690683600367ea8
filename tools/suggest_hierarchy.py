#!/usr/bin/env python
"""Suggest a class tree for a flat dataset, as a yaml file to edit and a dendrogram."""

import argparse
import csv
import os

import numpy as np

from hiera_seg.cli.arguments import add_import, tool_parser
from hiera_seg.cli.exit import exit_on_error, prepare_file
from hiera_seg.disk import replace_file
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy.suggest import (
    MIN_SIMILARITY,
    Suggestion,
    confusion_similarity,
    name_similarity,
    suggest_hierarchy,
)

EPILOG = """
The tree is a start for editing, not a result: groups hold classes that a model confuses, which may
only lie side by side in images, or whose names have words in common (docs/hierarchy.md).

examples:
  classes that a flat model confuses (confusion_<level>.npz is written by every evaluation)
    tools/suggest_hierarchy.py output/flat/confusion_class.npz --levels 3 --output tree.yaml
  a csv of another framework: rows true classes, columns predicted ones, names in both headers
    tools/suggest_hierarchy.py confusion.csv --groups 4 9
  names alone: a registered dataset, or a text file with a name per line
    tools/suggest_hierarchy.py my_train --import my_datasets --output tree.yaml
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "source", metavar="SOURCE",
        help="confusion matrix (.npz or .csv), names (.txt), or a registered dataset",
    )  # fmt: skip
    parser.add_argument(
        "--levels", type=int, help="of the tree, with the classes (default: 3, or as --groups)"
    )
    parser.add_argument(
        "--groups", type=int, nargs="+", metavar="N",
        help="number of groups per level, coarse to fine (default: a geometric series)",
    )  # fmt: skip
    parser.add_argument(
        "--min-similarity", type=float, default=MIN_SIMILARITY, metavar="S",
        help="from 0 to 1; clusters of a smaller mean similarity are not joined to a group "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="FILE", default="suggested.yaml", help="yaml (default: %(default)s)"
    )
    parser.add_argument(
        "--png", metavar="FILE", help="of the dendrogram (default: --output with .png)"
    )
    add_import(parser)
    args = parser.parse_args()
    if args.levels is None:
        args.levels = 1 + len(args.groups) if args.groups else 3
    if args.levels < 2:
        parser.error(f"--levels: {args.levels} is below 2, the classes and one level of groups")
    if args.groups and args.levels != len(args.groups) + 1:
        parser.error(f"--levels is {args.levels}, but --groups has {len(args.groups)} numbers")
    if not 0 <= args.min_similarity <= 1:
        parser.error(f"--min-similarity: {args.min_similarity} is not from 0 to 1")
    if not args.output.lower().endswith((".yaml", ".yml")):
        parser.error(f"--output: {args.output} does not end in .yaml or .yml")
    return args


def main(args: argparse.Namespace) -> None:
    stem = os.path.splitext(args.output)[0]
    png = args.png or f"{stem}.png"
    names, similarity, unit = read_source(args)
    found = suggest_hierarchy(
        names,
        similarity,
        args.levels,
        groups=args.groups,
        min_similarity=args.min_similarity,
        name=os.path.basename(stem),
    )
    for path in (args.output, png):
        prepare_file(path, "--output")
    found.hierarchy.to_yaml(args.output)
    draw_dendrogram(found, unit, png)
    print(found.hierarchy)
    if found.hierarchy.num_levels < args.levels and args.groups is None:
        print(f"{found.hierarchy.num_levels} levels: groups of more are too dissimilar")
    alone = set(range(len(names))) - set(found.clustered.tolist())
    if alone:
        print(f"similar to no other class: {', '.join(names[i] for i in sorted(alone))}")
    print(f"wrote {args.output} and {png}; edit the groups and their names")
    print(f"try it: tools/show_hierarchy.py {args.output}")


def read_source(args: argparse.Namespace) -> tuple[list[str], np.ndarray, str]:
    """Return the names of the classes, their similarity, and what the similarity is."""
    kind = os.path.splitext(args.source)[1].lower()
    if kind == ".npz":
        from hiera_seg.evaluation import read_confusion

        matrix, names = read_confusion(args.source)
    elif kind == ".csv":
        matrix, names = read_csv(args.source)
    else:
        names = read_text(args.source) if kind == ".txt" else names_of_dataset(args)
        return names, name_similarity(names), "words of names"
    return names, confusion_similarity(matrix), "rates of confusion"


def read_csv(path: str) -> tuple[np.ndarray, list[str]]:
    """Read a confusion matrix: the names of predicted classes in the first line, of the true class
    in the first column.

    Returns:
        float64 (K, K) by [predicted, true class], and the names.
    """
    lines = [line for line in csv.reader(read_text(path)) if any(cell.strip() for cell in line)]
    names = [cell.strip() for cell in lines[0][1:]] if lines else []
    if not names or len(lines) != len(names) + 1:
        raise DatasetError(
            f"{path}: {max(0, len(lines) - 1)} lines of numbers under a header of {len(names)} "
            "classes; write a square matrix, with the names in the first line and first column"
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        expected = names[number - 2]
        if line[0].strip() != expected:
            raise DatasetError(
                f"{path}: line {number} is of class {line[0].strip()!r}, but the header has "
                f"{expected!r} in its place; both must have one order"
            )
        try:
            row = [float(cell) for cell in line[1:]]
        except ValueError as error:
            raise DatasetError(f"{path}: line {number}: {error}; write numbers") from None
        if len(row) != len(names) or not all(0 <= value < float("inf") for value in row):
            raise DatasetError(
                f"{path}: line {number} has {len(row)} numbers for {len(names)} classes, from "
                f"{min(row, default=0):g} to {max(row, default=0):g}; expected one of 0 or more "
                "per class"
            )
        rows.append(row)
    return np.array(rows).T, names


def read_text(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error


def names_of_dataset(args: argparse.Namespace) -> list[str]:
    from detectron2.data import MetadataCatalog

    from hiera_seg.data.catalog import import_modules, require_registered

    import_modules(args.modules, tool=__file__)
    require_registered([args.source], "SOURCE")
    meta = MetadataCatalog.get(args.source)
    names = meta.get("stuff_classes") or meta.get("thing_classes")
    if not names:
        raise DatasetError(
            f"dataset {args.source!r}: its metadata has neither stuff_classes nor thing_classes"
        )
    return list(names)


def draw_dendrogram(found: Suggestion, unit: str, path: str | os.PathLike) -> None:
    """Draw classes and the distances at which they merge, with coarsest groups in colour.

    Args:
        found: the tree and its merges.
        unit: the source of the distances, for the axis label.
        path: path of the PNG file.
    """
    from matplotlib import use
    from scipy.cluster.hierarchy import dendrogram

    use("Agg")
    from matplotlib import pyplot

    h, size = found.hierarchy, len(found.clustered)
    group = np.concatenate([h.leaf_to_level(0)[found.clustered], np.full(size - 1, -1)])
    for row, (first, second) in enumerate(found.linkage[:, :2].astype(int)):
        if group[first] == group[second]:
            group[size + row] = group[first]
    found_groups = [v for v in dict.fromkeys(group.tolist()) if v >= 0]
    palette = [f"C{i}" for i in range(10) if i != 7]  # 7 is grey, as merges of groups are
    colors = {v: palette[i % len(palette)] for i, v in enumerate(found_groups)}
    figure, axis = pyplot.subplots(figsize=(8, 1.2 + 0.22 * size), layout="constrained")
    drawn = dendrogram(
        found.linkage,
        orientation="left",
        labels=[h.leaf_names[leaf] for leaf in found.clustered],
        ax=axis,
        leaf_font_size=8,
        link_color_func=lambda node: colors.get(group[node], "#999999"),
    )
    for tick, leaf in zip(axis.get_yticklabels(), drawn["leaves"], strict=True):
        tick.set_color(colors[group[leaf]])
    alone = h.num_leaves - size
    note = f"; {alone} classes without similar ones are not shown" if alone else ""
    axis.set_xlabel(f"distance of clusters (Ward), from {unit}{note}", fontsize=9)
    for side in ("top", "left", "right"):
        axis.spines[side].set_visible(False)
    replace_file(path, lambda file: figure.savefig(file, format="png", dpi=110))
    pyplot.close(figure)


if __name__ == "__main__":
    exit_on_error(main, parse_args())
