import random
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from PIL import Image

from hiera_seg.data import HieraDatasetMapper, register_hierarchical_dataset
from hiera_seg.data.flips import swap_table
from hiera_seg.data.records import iterate_records
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import new_config


@pytest.fixture
def cfg():
    cfg = new_config()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


@pytest.fixture
def toy(tree, register, cfg):
    """Registers "toy" with labels of random node ids and one void corner; returns its dicts."""
    rng = np.random.default_rng(0)
    labels = {f"{i}": rng.integers(0, tree.num_nodes, (24, 32)).astype(np.uint8) for i in range(3)}
    for label in labels.values():
        label[:3, :4] = 255
    register("toy", labels)
    cfg.DATASETS.TRAIN = ("toy",)
    return DatasetCatalog.get("toy")


def read(path):
    return np.asarray(Image.open(path))


def with_crop(cfg, size=(16, 20), area=1.0):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = list(size)
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = area


# -- a plain sample --------------------------------------------------------------------------


def test_a_sample_holds_the_image_and_node_ids(cfg, toy):
    before = {**toy[0]}
    sample = HieraDatasetMapper(cfg, True)(toy[0])
    assert toy[0] == before
    assert sample["image"].dtype == torch.uint8 and sample["sem_seg"].dtype == torch.int64
    assert sample["image"].permute(1, 2, 0).tolist() == read(toy[0]["file_name"]).tolist()
    assert sample["sem_seg"].tolist() == read(toy[0]["sem_seg_file_name"]).tolist()
    assert {**sample, "image": 0, "sem_seg": 0} == {
        **toy[0], "image": 0, "sem_seg": 0, "height": 24, "width": 32,
    }  # fmt: skip


def test_other_images(cfg, toy, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = str(tmp_path / "photo.jpg")
    mapper = HieraDatasetMapper(cfg, True)
    for mode, size, options in (("L", (32, 24), {}), ("RGB", (24, 32), {"exif": exif})):
        Image.new(mode, size, 77).save(path, **options)
        assert mapper({**toy[0], "file_name": path})["image"].shape == (3, 24, 32)
    Image.new("RGB", (24, 32)).save(path)
    with pytest.raises(DatasetError, match="EXIF orientation .*INPUT.EXIF"):
        mapper({**toy[0], "file_name": path})
    cfg.INPUT.FORMAT = "BGR"
    sample = HieraDatasetMapper(cfg, True)(toy[0])
    assert sample["image"].flip(0).permute(1, 2, 0).tolist() == read(toy[0]["file_name"]).tolist()


def test_at_test_time_the_image_alone(cfg, toy):
    cfg.INPUT.MIN_SIZE_TEST = 48
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    with_crop(cfg)
    sample = HieraDatasetMapper(cfg, False)(toy[0])
    assert sample["image"].shape == (3, 48, 64)
    assert (sample["height"], sample["width"]) == (24, 32)
    assert "sem_seg" not in sample and sample["sem_seg_file_name"] == toy[0]["sem_seg_file_name"]
    asked = HieraDatasetMapper(cfg, False, with_sem_seg=True)(toy[0])
    assert asked["sem_seg"].shape == (48, 64)
    del toy[0]["sem_seg_file_name"]
    assert HieraDatasetMapper(cfg, False)(toy[0])["image"].shape == (3, 48, 64)


# -- augmentation ----------------------------------------------------------------------------


def test_image_and_labels_move_together(cfg, toy):
    # Without resizing, the first channel of every image is its label file.
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    with_crop(cfg, (16, 20))
    mapper = HieraDatasetMapper(cfg, True)
    np.random.seed(0)
    seen = set()
    for _ in range(30):
        sample = mapper(toy[1])
        assert sample["sem_seg"].shape == (16, 20)
        assert torch.equal(sample["image"][0].long(), sample["sem_seg"])
        seen.add(sample["sem_seg"].numpy().tobytes())
    assert len(seen) > 15


@pytest.mark.parametrize("scale", [2, 3])
def test_labels_are_resized_by_the_nearest_pixel_centre(cfg, toy, scale):
    cfg.INPUT.MIN_SIZE_TRAIN = (24 * scale,)
    sample = HieraDatasetMapper(cfg, True)(toy[0])
    raw = read(toy[0]["sem_seg_file_name"])
    rows, columns = (((np.arange(n * scale) + 0.5) / scale).astype(int) for n in (24, 32))
    assert sample["sem_seg"].tolist() == raw[np.ix_(rows, columns)].tolist()
    assert sample["image"].shape == (3, 24 * scale, 32 * scale)


def test_small_images_are_padded_with_void_and_the_mean_pixel(cfg, toy):
    cfg.MODEL.PIXEL_MEAN = [100.4, 110.0, 120.6]
    with_crop(cfg, (40, 28))
    sample = HieraDatasetMapper(cfg, True)(toy[0])
    assert sample["image"].shape == (3, 40, 28) and sample["sem_seg"].shape == (40, 28)
    assert (sample["sem_seg"][24:] == 255).all()
    for extreme in (torch.amin, torch.amax):
        assert extreme(sample["image"][:, 24:], (1, 2)).tolist() == [100, 110, 121]
    assert torch.equal(sample["image"][0, :24].long(), sample["sem_seg"][:24])
    with_crop(cfg, (24, 50))
    sample = HieraDatasetMapper(cfg, True)(toy[0])
    assert (sample["sem_seg"][:, 32:] == 255).all()
    assert (sample["image"][2, :, 32:] == 121).all()


def test_void_is_what_the_model_ignores(cfg, toy):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 99
    with_crop(cfg, (30, 40))
    labels = HieraDatasetMapper(cfg, True)(toy[0])["sem_seg"]
    assert (labels[:3, :4] == 99).all() and (labels[24:] == 99).all()
    assert not (labels == 255).any()


def test_colour_augmentation_changes_colours_alone(cfg, toy, monkeypatch):
    cfg.INPUT.COLOR_AUG_SSD = True
    mapper = HieraDatasetMapper(cfg, True)
    random.seed(1)
    samples = [mapper(toy[0]) for _ in range(4)]
    original = read(toy[0]["file_name"]).transpose(2, 0, 1)
    assert sum(s["image"].tolist() != original.tolist() for s in samples) >= 3
    raw = read(toy[0]["sem_seg_file_name"]).tolist()
    assert all(s["sem_seg"].tolist() == raw for s in samples)
    monkeypatch.setitem(sys.modules, "detectron2.projects.point_rend", None)  # it imports cv2
    with pytest.raises(ConfigError, match="COLOR_AUG_SSD is True, which needs OpenCV .*headless"):
        HieraDatasetMapper(cfg, True)
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ConfigError, match="COLOR_AUG_SSD .*INPUT.FORMAT .*'L'"):
        HieraDatasetMapper(cfg, True)


def test_trees_of_more_than_255_nodes(cfg, register):
    tree = Hierarchy.from_dict({f"g{g}": [f"g{g}n{i}" for i in range(30)] for g in range(20)})
    rng = np.random.default_rng(0)
    label = rng.integers(0, 620, (24, 32)).astype(np.uint16)
    label[:2] = 65535
    image = np.stack([label % 256, label // 256, label * 0], -1).astype(np.uint8)
    register("wide", {"a": label}, {"a": image}, hierarchy=tree)
    cfg.DATASETS.TRAIN = ("wide",)
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    with_crop(cfg, (30, 20), area=0.9)
    mapper = HieraDatasetMapper(cfg, True)
    np.random.seed(0)
    for _ in range(5):
        sample = mapper(DatasetCatalog.get("wide")[0])
        low, high = sample["image"][:2, :24].long()
        assert torch.equal(low + 256 * high, sample["sem_seg"][:24])
        assert (sample["sem_seg"][24:] == 65535).all()


def test_trees_of_more_nodes_than_labels_of_16_bits_are_refused(toy):
    tree = Hierarchy.from_dict([f"n{i}" for i in range(65536)], name="huge")
    mapper = HieraDatasetMapper(
        True, hierarchy=tree, ignore_label=-1, augmentations=[], image_format="RGB"
    )
    files = {key: toy[0][key] for key in ("file_name", "sem_seg_file_name")}
    with pytest.raises(DatasetError, match="tree 'huge' has 65536 nodes"):
        mapper(files)


# -- left and right --------------------------------------------------------------------------


NAMES = ("road", "left-arm", "right-arm", "left", "right", "head", "body")
ARMS, SIDES = ("left-arm", "right-arm"), ("left", "right")
SWAPPED = ("road", "right-arm", "left-arm", "right", "left", "head", "body")
UPRIGHT = {"horizontal": False, "vertical": True}


@pytest.mark.parametrize(
    "pairs, flips, expected",
    [
        ([ARMS], [{}], SWAPPED[::-1]),  # with the inner nodes above them
        ([ARMS], [UPRIGHT], SWAPPED),  # upside down is a mirror image, turned
        ([ARMS], [{}, {}], NAMES),
        ([ARMS], [{}, UPRIGHT], NAMES[::-1]),
        ([], [{}], NAMES[::-1]),
        ([ARMS, SIDES], [{}], SWAPPED[::-1]),
    ],
)
def test_a_mirror_image_swaps_pairs(cfg, tree, register, pairs, flips, expected):
    labels = np.array([tree.id(name) for name in NAMES], np.uint8)[None].repeat(2, 0)
    register("people", {"a": labels}, flip_pairs=pairs)
    cfg.DATASETS.TRAIN = ("people",)
    flips = [T.RandomFlip(prob=1.0, **flip) for flip in flips]
    mapper = HieraDatasetMapper(cfg, True, augmentations=flips)
    found = mapper(DatasetCatalog.get("people")[0])["sem_seg"]
    assert found[0].tolist() == [tree.id(name) for name in expected]


def test_nodes_swap_one_with_another_or_not_at_all():
    """A right side with a part that the left one lacks has no mirror image."""
    tree = Hierarchy.from_dict({"left": ["left-arm"], "right": ["right-arm", "watch"]})
    swap = swap_table([("left-arm", "right-arm")], tree, tree)
    assert swap.tolist() == [1, 0, 2, 3, 4]


def test_inner_nodes_of_a_dataset_swap_if_they_have_more_children_in_the_models_tree():
    model = Hierarchy.from_dict({side: [f"{side}-arm", f"{side}-leg"] for side in SIDES})
    own = Hierarchy.from_dict({side: [f"{side}-arm"] for side in SIDES})
    swap = swap_table([ARMS], own, model)
    names = [
        "right/right-arm",
        "left/left-leg",
        "left/left-arm",
        "right/right-leg",
        "right",
        "left",
    ]
    assert [model.paths[node] for node in swap] == names


# -- several datasets, and those of others ---------------------------------------------------


def test_every_dict_is_read_by_the_map_of_its_dataset(cfg, tree, folders, tmp_path):
    other = Hierarchy.from_dict({"ground": ["grass", "road"]}, name="other")
    image_root, label_root = folders({"a": np.array([[0, 1, 7]], np.uint8)})
    roots = {"image_root": image_root, "sem_seg_root": label_root}
    register_hierarchical_dataset(
        "one", hierarchy=tree, label_map={0: "head", 1: "body", 7: None}, **roots
    )
    register_hierarchical_dataset(
        "two", hierarchy=other, label_map={0: 0, 1: "road", 7: "ground"}, ignore_label=9, **roots
    )
    tree.to_yaml(tmp_path / "toy.yaml")
    cfg.MODEL.HIERA_SEG.HIERARCHY = str(tmp_path / "toy.yaml")
    cfg.DATASETS.TRAIN = ("one", "two")
    mapper = HieraDatasetMapper(cfg, True)
    labels = [mapper(DatasetCatalog.get(n)[0])["sem_seg"].tolist() for n in cfg.DATASETS.TRAIN]
    assert labels == [[[4, tree.id("body"), 255]], [[1, 0, tree.id("ground")]]]


@pytest.mark.parametrize("of_another", [{}, {"dataset_name": "one"}])
def test_a_dataset_of_a_plain_catalog_is_read_by_the_map_of_its_metadata(
    cfg, tree, folders, of_another
):
    image_root, label_root = folders({"a": np.array([[0, 1, 7]], np.uint8)})
    roots = {"image_root": image_root, "sem_seg_root": label_root}
    names = {0: "head", 1: "body", 7: None}
    register_hierarchical_dataset("one", hierarchy=tree, label_map=names, **roots)
    record = DatasetCatalog.get("one")[0]
    del record["dataset_name"]
    DatasetCatalog.register("other", lambda: [record | of_another])
    names = {0: "body", 1: None, 7: "head"}
    MetadataCatalog.get("other").set(hierarchy=tree.to_dict(), label_map=names, ignore_label=255)
    cfg.DATASETS.TRAIN = ("one", "other")
    mapper = HieraDatasetMapper(cfg, True)
    labels = [mapper(x)["sem_seg"].tolist() for x in iterate_records(cfg.DATASETS.TRAIN)]
    head, body = tree.id("head"), tree.id("body")
    assert labels == [[[head, body, 255]], [[body, 255, head]]]


def test_a_dataset_whose_tree_does_not_fit_is_refused_at_once(cfg, tree, toy, tmp_path):
    Hierarchy.from_dict({"ground": ["road", "gras"]}).to_yaml(tmp_path / "small.yaml")
    cfg.MODEL.HIERA_SEG.HIERARCHY = str(tmp_path / "small.yaml")
    with pytest.raises(DatasetError, match="'toy': node 'ground/grass' of tree 'toy' is not in"):
        HieraDatasetMapper(cfg, True)


def test_dicts_of_others_hold_node_ids_of_the_models_tree(cfg, toy):
    record = {k: v for k, v in toy[0].items() if k != "dataset_name"}
    raw = read(toy[0]["sem_seg_file_name"]).tolist()
    mapper = HieraDatasetMapper(cfg, True)
    assert mapper(record)["sem_seg"].tolist() == raw
    assert mapper({**record, "dataset_name": "nobody_registered_this"})["sem_seg"].tolist() == raw


def test_stock_loaders_take_the_mapper(cfg, toy):
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    with_crop(cfg)
    cfg.SOLVER.IMS_PER_BATCH = 4
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        loader = build_detection_train_loader(cfg, mapper=HieraDatasetMapper(cfg, True))
        batch = next(iter(loader))
        assert [s["sem_seg"].shape for s in batch] == [(16, 20)] * 4


# -- bad input -------------------------------------------------------------------------------


def test_bad_samples_name_their_files(cfg, toy, tmp_path):
    mapper = HieraDatasetMapper(cfg, True)
    image = toy[0]["file_name"]
    Image.new("L", (31, 24)).save(tmp_path / "narrow.png")
    Image.new("L", (32, 24), 55).save(tmp_path / "strange.png")
    (tmp_path / "half.jpg").write_bytes(b"\xff\xd8\xff\xe0 no jpeg")
    cases = [
        ({"sem_seg_file_name": f"{tmp_path}/narrow.png"},
         f"size differs: image {image} is 32x24, label {tmp_path}/narrow.png is 31x24"),
        ({"height": 20}, f"size differs: image {image} is 32x24, its dataset lists 32x20 (width x"),
        ({"sem_seg_file_name": f"{tmp_path}/strange.png"},
         f"{tmp_path}/strange.png: ids 55 are not node ids of tree 'toy' of dataset 'toy' (0..9"),
        ({"file_name": f"{tmp_path}/half.jpg"}, f"cannot read image file {tmp_path}/half.jpg: "),
        ({"file_name": f"{tmp_path}/no.jpg"}, f"image file not found: {tmp_path}/no.jpg"),
        ({"sem_seg_file_name": f"{tmp_path}/no.png"}, f"label file not found: {tmp_path}/no.png"),
    ]  # fmt: skip
    for change, message in cases:
        with pytest.raises(DatasetError) as error:
            mapper({**toy[0], **change})
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)
    del toy[0]["sem_seg_file_name"]
    with pytest.raises(DatasetError, match=f"image {image} has no label file"):
        mapper(toy[0])
