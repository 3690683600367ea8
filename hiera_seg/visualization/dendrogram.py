"""Draw the merges of a suggested class tree."""

import os

import numpy as np

from hiera_seg.disk import replace_file
from hiera_seg.hierarchy.suggest import Suggestion


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
