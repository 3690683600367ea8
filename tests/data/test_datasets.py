import csv
import os
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import LabelReader
from hiera_seg.data.datasets import camvid, cityscapes
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy

PREPARE_CAMVID = Path(__file__).parents[2] / "datasets/prepare_camvid.py"


@pytest.fixture
def root(shared_datasets, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_datasets))
    return shared_datasets


def test_camvid_lists_its_splits(root):
    counts = {s: len(DatasetCatalog.get(f"hiera_camvid_{s}")) for s in camvid.SPLITS}
    assert counts == {"train": 367, "val": 101, "test": 233}
    meta = MetadataCatalog.get("hiera_camvid_test")
    assert len(meta.stuff_classes) == 31
    assert Hierarchy.from_dict(**meta.hierarchy).num_nodes == 48


def test_camvid_ids_are_those_of_the_published_table(root):
    with open(root / "camvid/classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [name for name, _ in camvid.CLASSES]
    assert [tuple(int(row[c]) for c in "rgb") for row in rows] == [c for _, c in camvid.CLASSES]
    reader = LabelReader.from_metadata(MetadataCatalog.get("hiera_camvid_train"))
    raw = np.array([[*range(32), 255]], np.uint8)
    nodes = reader.lookup(raw)[0].tolist()
    assert nodes == [*range(30), 255, 30, 255]
    tree = reader.hierarchy
    for row, node in zip(rows, nodes, strict=False):
        if row["name"] == "Void":
            continue
        names = [tree.node_names[v] for v in tree.path(node)]
        assert names == [row["group_authors"], row["mid_suggested"], row["name"]]


def test_camvid_labels_keep_the_palette_index(root):
    record = DatasetCatalog.get("hiera_camvid_val")[0]
    reader = LabelReader.from_metadata(MetadataCatalog.get("hiera_camvid_val"))
    raw = np.asarray(Image.open(record["sem_seg_file_name"]))
    labels = reader(record["sem_seg_file_name"])
    for value in np.unique(raw):
        expected = {30: 255, 31: 30}.get(int(value), int(value))
        assert (labels[raw == value] == expected).all()


def test_camvid11_reads_the_same_files_under_the_published_map(root):
    """By the ids of classes.csv that the benchmark merges; all others are void."""
    published = {
        "sky": [21], "building": [4, 31], "pole": [8], "road": [17, 10, 11, 18],
        "pavement": [19, 15], "tree": [26, 29], "sign": [20, 12, 24], "fence": [9],
        "car": [5, 22, 27], "pedestrian": [16], "bicyclist": [2, 13],
    }  # fmt: skip
    for split in camvid.SPLITS:
        records, fine = (DatasetCatalog.get(f"hiera_camvid{n}_{split}") for n in ("11", ""))
        for key in ("file_name", "sem_seg_file_name"):
            assert [record[key] for record in records] == [record[key] for record in fine]
    meta = MetadataCatalog.get("hiera_camvid11_test")
    assert meta.stuff_classes == list(published)
    tree = Hierarchy.from_dict(**meta.hierarchy)
    expected = np.full(256, 255)
    for leaf, ids in enumerate(published.values()):
        expected[ids] = leaf
    reader = LabelReader.from_metadata(meta)
    raw = np.array([[*range(32), 255]], np.uint8)
    assert reader.lookup(raw).tolist() == expected[raw].tolist()
    file = records[0]["sem_seg_file_name"]
    assert np.array_equal(reader(file), expected[np.asarray(Image.open(file))])
    assert [tree.node_names[v] for v in tree.path("bicyclist")] == [
        "moving_object", "human", "bicyclist",
    ]  # fmt: skip


def test_camvid_splits_follow_from_frame_names(root):
    split_of = runpy.run_path(str(PREPARE_CAMVID))["split_of"]
    found = Counter()
    for split in camvid.SPLITS:
        for file in os.listdir(root / "camvid/labels" / split):
            assert split_of(os.path.splitext(file)[0]) == split
            found[split] += 1
    assert found.total() == 701
    for name in ("frame_0001", "0001TP", "0001TP_x1", ""):
        with pytest.raises(ValueError, match="of CamVid"):
            split_of(name)


def test_cityscapes_ids_and_train_ids_say_the_same(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "samples"))
    labels = []
    for name in ("hiera_cityscapes_val", "hiera_cityscapes_trainids_val"):
        (record,) = DatasetCatalog.get(name)
        assert record["file_name"].endswith("frankfurt_000000_000294_leftImg8bit.png")
        labels.append(LabelReader.from_metadata(MetadataCatalog.get(name)))
        labels[-1] = labels[-1](record["sem_seg_file_name"])
    assert labels[0].shape == (128, 256)
    trainids = root / "samples/cityscapes/gtFine/val/frankfurt"
    (file,) = trainids.glob("*_labelTrainIds.png")
    assert np.array_equal(labels[1], np.asarray(Image.open(file)))
    # The two files of the sample were made smaller each by itself: they differ at some borders.
    differ = labels[0] != labels[1]
    assert 0 < differ.mean() < 0.003


def test_cityscapes_scores_19_of_its_34_classes():
    meta = MetadataCatalog.get("hiera_cityscapes_train")
    reader = LabelReader.from_metadata(meta)
    nodes = reader.lookup(np.arange(34, dtype=np.uint8)[None])[0]
    # Ids that the benchmark scores, as its documentation lists them.
    scored = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert nodes[scored].tolist() == list(range(19))
    assert (np.delete(nodes, scored) == 255).all()
    assert [cityscapes.CLASSES[i] for i in scored] == meta.stuff_classes
    trainids = LabelReader.from_metadata(MetadataCatalog.get("hiera_cityscapes_trainids_val"))
    with pytest.raises(DatasetError, match=r"raw ids 19 are not in the label map"):
        trainids.lookup(np.array([[19]], np.uint8))


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in DatasetCatalog.list()
        if n.startswith("hiera_") and MetadataCatalog.get(n).label_map
    ],
)
def test_void_of_a_builtin_dataset_is_no_finding(name):
    """Its ignore label is void on purpose, whichever leaves a split lacks."""
    assert LabelReader.from_metadata(MetadataCatalog.get(name)).default_void is None
