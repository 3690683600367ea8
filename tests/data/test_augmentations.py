"""Augmentations on labels that are node ids."""

import numpy as np
import pytest
from detectron2.data import transforms as T

from hiera_seg.data.augmentations import (
    NodeAugInput,
    RandomCropByCategory,
    build_augmentations,
)
from tests.helpers import new_config

# -- what a transform uncovers ---------------------------------------------------------------


@pytest.mark.parametrize("void", [255, 65535])
@pytest.mark.parametrize(
    "augmentation",
    [T.RandomRotation([30, 30]), T.RandomExtent([1.5, 1.5], [0, 0]), T.PadTransform(4, 4, 4, 4)],
    ids=lambda a: type(a).__name__,
)
def test_what_lies_outside_of_the_image_is_void(augmentation, void):
    dtype = np.uint8 if void == 255 else np.uint16
    data = NodeAugInput(np.full((64, 64, 3), 9, np.uint8), np.full((64, 64), 3, dtype))
    T.AugmentationList([augmentation])(data)
    assert data.sem_seg.dtype == dtype and set(np.unique(data.sem_seg)) == {3, void}
    assert (
        data.sem_seg[0, 0] == void and data.sem_seg[tuple(np.array(data.sem_seg.shape) // 2)] == 3
    )


# -- crops by category -----------------------------------------------------------------------


def crop_of(tree, label, size, area, seed=0):
    np.random.seed(seed)
    data = NodeAugInput(np.zeros((*label.shape, 3), np.uint8), label)
    RandomCropByCategory("absolute", size, area, tree)(data)
    return data.sem_seg


def test_void_is_no_category_and_no_area(tree):
    # 80 % void, and the valid rest is half road, half grass: nothing is wrong with that crop.
    label = np.full((10, 10), 255, np.uint8)
    label[0], label[1] = 0, 1
    assert crop_of(tree, label, (10, 10), 0.6).tolist() == label.tolist()
    calls = count_tries(tree, label, 0.6)
    assert calls == 1
    # Road fills 91 % of the valid pixels, though 10 % of all.
    label[1, 1:] = 255
    assert count_tries(tree, label, 0.6) == 10
    assert count_tries(tree, np.full((10, 10), 255, np.uint8), 0.6) == 10


def count_tries(tree, label, area):
    crop = RandomCropByCategory("absolute", (10, 10), area, tree)
    tries = []
    size_of = crop.crop.get_crop_size
    crop.crop.get_crop_size = lambda size: tries.append(1) or size_of(size)
    crop.get_transform(np.zeros((*label.shape, 3), np.uint8), label)
    return len(tries)


def test_inner_nodes_are_categories(tree):
    label = np.full((10, 10), tree.id("body"), np.uint8)
    label[5:] = tree.id("ground")
    assert count_tries(tree, label, 0.75) == 1
    label[8] = tree.id("body")
    assert count_tries(tree, label, 0.55) == 10


def test_crops_keep_the_limit_where_one_can(tree):
    label = np.zeros((40, 200), np.uint8)
    label[:, 100:] = np.random.default_rng(0).integers(0, 5, (40, 100))
    shares = []
    for seed in range(50):
        counts = np.bincount(crop_of(tree, label, (20, 20), 0.75, seed=seed).ravel())
        shares.append(counts.max() / counts.sum())
    assert sum(share < 0.75 for share in shares) >= 48
    free = [crop_of(tree, label, (20, 20), 1.0, seed=seed).max() == 0 for seed in range(50)]
    assert 10 < sum(free) < 40


@pytest.mark.parametrize("value, expected", [("horizontal", (1, 0)), ("vertical", (0, 1))])
def test_a_config_flips_in_one_direction(tree, value, expected):
    flip = build_augmentations(new_config("INPUT.RANDOM_FLIP", value), True, tree)[-1]
    assert (flip.horizontal, flip.vertical) == expected
