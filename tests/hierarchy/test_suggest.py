"""Suggested trees: planted groups are found, and what cannot be grouped is named."""

import numpy as np
import pytest

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.suggest import (
    confusion_similarity,
    group_sizes,
    name_similarity,
    suggest_hierarchy,
    words_of,
)

TREE = Hierarchy.from_dict(
    {
        "flat": {"ground": ["road", "pavement"], "green": ["grass", "soil"]},
        "vehicle": {"four": ["car", "truck", "bus"], "two": ["bicycle", "motorbike"]},
        "sky": None,
    }
)


def planted_confusion(tree, seed=0):
    """Rates of confusion that grow with each common ancestor, on classes of any size."""
    rng = np.random.default_rng(seed)
    leaves = tree.num_leaves
    ancestor = tree.level_ancestor[:, :leaves]
    common = (ancestor[:, :, None] == ancestor[:, None, :]).sum(axis=0)
    rates = 0.25 ** (3.0 - common) * rng.uniform(0.9, 1.1, common.shape) / 10
    rates[np.arange(leaves), np.arange(leaves)] = 0.8
    pixels = 10.0 ** rng.integers(3, 7, leaves)
    return np.vstack([np.rint(rates * pixels), np.full((1, leaves), 7)])  # stopped above


def groups_of(hierarchy, level):
    names, index = hierarchy.leaf_names, hierarchy.leaf_to_level(level)
    return {frozenset(names[i] for i in np.flatnonzero(index == k)) for k in set(index.tolist())}


@pytest.mark.parametrize("seed", range(3))
def test_groups_that_are_confused_are_found_at_every_level(seed):
    matrix = planted_confusion(TREE, seed)
    found = suggest_hierarchy(
        TREE.leaf_names, confusion_similarity(matrix), groups=[3, 5], min_similarity=0
    )
    assert found.hierarchy.leaf_names == TREE.leaf_names
    for level in range(3):
        assert groups_of(found.hierarchy, level) == groups_of(TREE, level)
    assert found.linkage.shape == (TREE.num_leaves - 1, 4)


def test_the_similarity_of_confusions_is_that_of_rates():
    matrix = np.array([[90, 100, 0, 0], [10, 800, 0, 0], [0, 100, 5, 0], [0, 0, 5, 0]])
    # Rates between classes 0 and 1: 0.1 and 0.1; 1 and 2: 0.1 and 0; 2 and 3: 0.5 and none.
    found = confusion_similarity(matrix)
    expected = np.eye(4)
    for (i, j), rate in {(0, 1): 0.1, (1, 2): 0.05, (2, 3): 0.25}.items():
        expected[i, j] = expected[j, i] = np.sqrt(rate / 0.25)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(confusion_similarity(np.diag([5, 6])), np.eye(2))


def test_names_are_similar_by_words_and_by_their_last_word_most():
    assert words_of("TrafficLight-front_2") == ["traffic", "light", "front", "2"]
    names = ["traffic light", "street light", "traffic sign", "bicyclist", "motorcyclist", "sky"]
    found = name_similarity(names)
    np.testing.assert_allclose(found, found.T)
    assert found[0, 1] > found[0, 2] > found[1, 2] > -1e-9
    assert found[3, 4] > 0.1 and found[5, :5].max() == 0


def test_classes_that_are_similar_to_none_stay_alone():
    names = ["left arm", "right arm", "left leg", "right leg", "face", "Hat"]
    found = suggest_hierarchy(names, name_similarity(names), num_levels=2, groups=[2])
    assert groups_of(found.hierarchy, 0) == {
        frozenset({"left arm", "right arm"}),
        frozenset({"left leg", "right leg"}),
        frozenset({"face"}),
        frozenset({"Hat"}),
    }
    assert found.clustered.tolist() == [0, 1, 2, 3]
    assert {"arm_group", "leg_group"} < set(found.hierarchy.node_names)


def test_groups_of_little_similarity_are_split():
    similarity = np.full((6, 6), 0.02)
    similarity[:2, :2] = similarity[2:4, 2:4] = similarity[4:, 4:] = 0.8
    np.fill_diagonal(similarity, 1)
    names = list("abcdef")
    pairs = {frozenset("ab"), frozenset("cd"), frozenset("ef")}
    found = suggest_hierarchy(names, similarity, groups=[2])
    assert groups_of(found.hierarchy, 0) == pairs
    loose = suggest_hierarchy(names, similarity, groups=[2], min_similarity=0)
    assert len(groups_of(loose.hierarchy, 0)) == 2
    with pytest.raises(HierarchyError, match="similarity.*0.9"):
        suggest_hierarchy(names, similarity, groups=[2], min_similarity=0.9)


def test_numbers_of_groups_grow_geometrically():
    assert group_sizes(1000, 3) == [10, 100]
    assert group_sizes(8, 2) == [3]


@pytest.mark.parametrize("groups", [[], [1, 3], [3, 3], [5, 3], [4, 9]])
def test_impossible_groups_are_named(groups):
    with pytest.raises(HierarchyError, match="groups per level"):
        suggest_hierarchy(list("abcdefghi"), np.ones((9, 9)), groups=groups)


def test_repeated_and_too_few_names_are_named():
    with pytest.raises(HierarchyError, match="'a' occurs twice"):
        suggest_hierarchy(["a", "b", "a"], np.ones((3, 3)))
    with pytest.raises(HierarchyError, match="0 of 3 classes are similar"):
        suggest_hierarchy(["a", "b", "c"], np.eye(3))
