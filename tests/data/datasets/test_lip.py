import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from hiera_seg.hierarchy import Hierarchy
from tests.helpers import plain_mapper

# As the release numbers them: what a mirror swaps.
SWAPPED = {14: 15, 15: 14, 16: 17, 17: 16, 18: 19, 19: 18}


@pytest.fixture
def real(sample, linked):
    """Every real pair: (dataset name, image size of PIL, mode of the image, raw labels, record)."""
    lip, cihp = sample("lip"), sample("cihp")
    linked(
        {
            "lip": lip,
            "cihp/Validation/Images": cihp / "images",
            "cihp/Validation/Category_ids": cihp / "labels",
        }
    )
    return [
        (name, record)
        for name in ("hiera_lip_train", "hiera_lip_val", "hiera_cihp_val")
        for record in DatasetCatalog.get(name)
    ]


def test_real_samples_read_as_they_are(real):
    assert len(real) == 1 + 1 + 5
    modes = set()
    for name, record in real:
        tree = Hierarchy.from_dict(**MetadataCatalog.get(name).hierarchy)
        found = plain_mapper(tree)(record)
        with Image.open(record["file_name"]) as image:
            modes.add(image.mode)
            assert tuple(found["image"].shape) == (3, image.height, image.width)
        raw = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert np.array_equal(found["sem_seg"], raw)
    assert modes == {"RGB", "L"}  # one of LIP is grey


def test_left_and_right_swap_in_a_mirrored_image(real):
    swapped = 0
    for name, record in real:
        tree = Hierarchy.from_dict(**MetadataCatalog.get(name).hierarchy)
        flip = T.RandomFlip(prob=1.0)
        found = plain_mapper(tree, [flip])(record)
        raw = np.asarray(Image.open(record["sem_seg_file_name"]))[:, ::-1]
        expected = raw.copy()
        for left, right in SWAPPED.items():
            expected[raw == left] = right
        assert np.array_equal(found["sem_seg"], expected)
        swapped += (expected != raw).any()
        image = plain_mapper(tree)(record)["image"]
        assert np.array_equal(found["image"], image.flip(-1))
    assert swapped == 7


@pytest.mark.parametrize("name", ["hiera_lip_train", "hiera_lip_val", "hiera_cihp_train"])
def test_each_pair_is_left_and_right_of_one_thing(name):
    meta = MetadataCatalog.get(name)
    tree = Hierarchy.from_dict(**meta.hierarchy)
    pairs = {(tree.id(left), tree.id(right)) for left, right in meta.flip_pairs}
    assert pairs == {(14, 15), (16, 17), (18, 19)}
    for left, right in meta.flip_pairs:
        assert left.removeprefix("left") == right.removeprefix("right")
    assert tree.num_leaves == 20 and tree.num_nodes == 25


def test_cihp_is_the_tree_of_lip_with_one_other_leaf():
    lip, cihp = Hierarchy.load("lip"), Hierarchy.load("cihp")
    assert np.array_equal(lip.parent, cihp.parent)
    differ = [(a, b) for a, b in zip(lip.paths, cihp.paths, strict=True) if a != b]
    assert differ == [("body/upper/jumpsuits", "body/upper/torso-skin")]


def test_id_10_of_cihp_lies_between_face_and_clothes(sample):
    """Jumpsuits, as LIP has them there, would reach far below the face."""
    between = 0
    for file in sorted((sample("cihp") / "labels").glob("*.png")):
        label = np.asarray(Image.open(file))
        face, skin, clothes = (np.nonzero(label == v)[0] for v in (13, 10, 5))
        if len(skin):
            assert np.median(face) < np.median(skin) < np.median(clothes)
            assert len(skin) < len(clothes) / 5
            between += 1
    assert between == 4
