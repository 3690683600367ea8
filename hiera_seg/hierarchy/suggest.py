"""Suggest a class tree for a flat list of classes, from confusions or names, to be edited by hand.

The similarity of two classes is derived from the mean of their two confusion rates, as in Bengio et
al., *Label Embedding Trees for Large Multi-Class Tasks* (NIPS 2010). docs/hierarchy.md describes
the limits.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy.tree import Hierarchy

MIN_SIMILARITY = 0.1
_HEAD_WEIGHT = 2.0  # of the last word of a name, which is mostly the noun
_TRIGRAM_WEIGHT = 0.6  # of three letters in a row, as in "bicyclist" and "motorcyclist"


@dataclass(frozen=True)
class Suggestion:
    """A suggested tree.

    Attributes:
        hierarchy: the tree; its leaves are the classes in their order.
        clustered: int64 (C,), ids of the leaves that are similar to another one and were clustered.
        linkage: float64 (C - 1, 4), the merges of these leaves, as returned by SciPy's ``linkage``.
    """

    hierarchy: Hierarchy
    clustered: np.ndarray
    linkage: np.ndarray


def confusion_similarity(matrix: np.ndarray) -> np.ndarray:
    """Compute the similarity of classes from their confusion rates.

    Args:
        matrix: (K, K) or (K + 1, K), pixels by [predicted, true class], without negative numbers.

    Returns:
        float64 (K, K), symmetric, in [0, 1]: the square root of the mean of the two rates of
        confusion, as a share of the largest such root; the diagonal is 1. The root keeps a few
        large rates from hiding the others.
    """
    size = matrix.shape[1]
    counts = np.asarray(matrix, np.float64)
    truth = counts.sum(axis=0)
    rates = np.divide(counts[:size], truth, out=np.zeros((size, size)), where=truth > 0)
    similarity = np.sqrt((rates + rates.T) / 2)
    np.fill_diagonal(similarity, 0)
    similarity /= similarity.max(initial=0) or 1.0
    np.fill_diagonal(similarity, 1)
    return similarity


def name_similarity(names: Sequence[str]) -> np.ndarray:
    """Compute how similar names are by their words.

    The cosine of vectors of words, the last of which counts double, and of three letters in a row,
    which count 0.6. "traffic light" is similar to "traffic sign" and to "street light".

    Returns:
        float64 (K, K), symmetric, in [0, 1], with a diagonal of 1.
    """
    vectors = []
    for name in names:
        words = words_of(name) or [name]
        vector = Counter(dict.fromkeys(words, 1.0))
        vector[words[-1]] = _HEAD_WEIGHT
        for word in words:
            for start in range(len(word) - 2):
                vector["letters", word[start : start + 3]] += _TRIGRAM_WEIGHT
        vectors.append(vector)
    parts = sorted({part for vector in vectors for part in vector}, key=str)
    table = np.array([[vector[part] for part in parts] for vector in vectors])
    table = table.reshape(len(names), len(parts))
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    similarity = np.clip(table @ table.T, 0, 1)
    np.fill_diagonal(similarity, 1)
    return similarity


def words_of(name: str) -> list[str]:
    """Split a name at everything but letters and digits, and before capitals: "TrafficLight"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W_]+", spaced)]


def group_sizes(num_leaves: int, num_levels: int) -> list[int]:
    """Return the numbers of groups per level, coarse to fine, in a geometric series."""
    steps = np.arange(1, num_levels) / num_levels
    return [max(2, round(float(num_leaves**step))) for step in steps]


def suggest_hierarchy(
    names: Sequence[str],
    similarity: np.ndarray,
    num_levels: int = 3,
    *,
    groups: Sequence[int] | None = None,
    min_similarity: float = MIN_SIMILARITY,
    name: str = "suggested",
) -> Suggestion:
    """Cluster classes by Ward's method, and cut the clusters into the levels of a tree.

    Args:
        names: names of the classes, in the order of the dataset.
        similarity: (K, K), symmetric, in [0, 1].
        num_levels: number of levels of the tree, including that of the classes.
        groups: number of groups per level, coarse to fine; None: a geometric series.
        min_similarity: clusters are not joined to a group if the mean similarity between their
            classes is smaller.
        name: name of the tree.

    Returns:
        A tree whose groups are named after the word that their classes share, or else after their
        first class. A class that is alone stands above the last level.

    Raises:
        HierarchyError: repeated names, impossible numbers of groups, or no similar classes.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    if repeated := [name for name, number in Counter(names).items() if number > 1]:
        raise HierarchyError(f"classes: {repeated[0]!r} occurs twice; names must differ")
    similarity = np.asarray(similarity, np.float64)
    clustered = np.flatnonzero((similarity - np.eye(len(names))).max(axis=1, initial=0) > 0)
    if len(clustered) < 3:
        raise HierarchyError(
            f"{len(clustered)} of {len(names)} classes are similar to another one; 3 or more are "
            "needed to make groups"
        )
    advice = "" if groups is not None else f"; choose fewer than {num_levels} levels"
    groups = group_sizes(len(clustered), num_levels) if groups is None else list(groups)
    increasing = groups and groups == sorted(set(groups))
    if not increasing or groups[0] < 2 or groups[-1] >= len(clustered):
        raise HierarchyError(
            f"groups per level: {groups} for {len(clustered)} classes that are similar to another "
            f"one; expected increasing numbers from 2 to {len(clustered) - 1}, coarse to fine"
            f"{advice}"
        )
    distance = (1 - similarity)[np.ix_(clustered, clustered)]
    np.fill_diagonal(distance, 0)
    merges = linkage(squareform(distance, checks=False), "ward", optimal_ordering=True)
    cuts = np.arange(len(names)) + np.zeros((len(groups), 1), int)  # alone, where not clustered
    for cut, wanted in zip(cuts, cut_tree(merges, n_clusters=groups).T, strict=True):
        for members in _coherent_clusters(merges, wanted, similarity, clustered, min_similarity):
            cut[members] = members[0]
    taken = set(names)

    def grow(leaves: np.ndarray, level: int) -> dict:
        """Return the part of the tree that holds some leaves."""
        if level == len(groups):
            return {names[leaf]: None for leaf in leaves}
        children: dict = {}
        for cluster in dict.fromkeys(cuts[level][leaves]):
            members = leaves[cuts[level][leaves] == cluster]
            repeats = level > 0 and len(members) == len(leaves)  # the group above has these members
            if len(members) == 1 or repeats:
                children |= grow(members, level + 1)
            else:
                label = _group_name([names[leaf] for leaf in members], taken)
                taken.add(label)
                children[label] = grow(members, level + 1)
        return children

    tree = grow(np.arange(len(names)), 0)
    if all(part is None for part in tree.values()):
        raise HierarchyError(
            f"no group of similar classes: no similarity reaches {min_similarity:g}; "
            "lower --min-similarity"
        )
    return Suggestion(
        Hierarchy.from_dict(tree, name=name, leaf_order=list(names)), clustered, merges
    )


def _coherent_clusters(
    merges: np.ndarray,
    wanted: np.ndarray,
    similarity: np.ndarray,
    leaves: np.ndarray,
    min_similarity: float,
) -> list[np.ndarray]:
    """Return the clusters of a cut, split until the members of each are similar enough.

    `merges` is SciPy's ``linkage`` of the C leaves whose ids are `leaves`, and `wanted` (C,) the
    number of each one's cluster. The two parts of a cluster have a mean similarity of
    `min_similarity` or more.
    """
    parts = merges[:, :2].astype(int)
    members = [np.array([i]) for i in range(len(leaves))]
    for first, second in parts:
        members.append(np.sort(np.append(members[first], members[second])))
    found, nodes = [], [len(members) - 1]
    while nodes:
        node = nodes.pop()
        if len(members[node]) > 1:
            sides = parts[node - len(leaves)]
            between = similarity[np.ix_(*(leaves[members[side]] for side in sides))].mean()
            if between < min_similarity or len(set(wanted[members[node]])) > 1:
                nodes += sides.tolist()
                continue
        found.append(leaves[members[node]])
    return found


def _group_name(members: Sequence[str], taken: set[str]) -> str:
    """Return the word that most members share, or the first member, made unique."""
    counts = Counter(word for name in members for word in dict.fromkeys(words_of(name)))
    word, number = max(counts.items(), key=lambda pair: (pair[1], len(pair[0])), default=("", 0))
    base = word if 2 * number > len(members) and number > 1 else "_".join(words_of(members[0]))
    label = f"{base or 'classes'}_group"
    numbered = (f"{label}_{i}" for i in range(2, len(members) + len(taken) + 2))
    return next(name for name in [label, *numbered] if name not in taken)
