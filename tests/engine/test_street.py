"""The shipped mixture of CamVid and Cityscapes, from its files to its scores, on real frames."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from hiera_seg.config import resolve_hierarchy
from hiera_seg.data import HieraDatasetMapper, build_hiera_train_loader
from hiera_seg.data.datasets.cityscapes import CLASSES
from hiera_seg.data.datasets.street import CITYSCAPES_NODES
from hiera_seg.engine import HieraTrainer
from tests.helpers import new_config

CONFIG = Path(__file__).resolve().parents[2] / "configs/Street/hssn_deeplab_v3_plus_r18.yaml"
FRAMES = {"train": ["0001TP_006690", "0006R0_f00930"], "test": ["Seq05VD_f00000"]}


@pytest.fixture
def frames(shared_datasets, tmp_path, monkeypatch):
    """Folders of both datasets with three real CamVid frames and one of Cityscapes, twice."""
    root = tmp_path / "datasets"
    links = {}
    for split, stems in FRAMES.items():
        for stem in stems:
            for file in (f"images/{split}/{stem}.jpg", f"labels/{split}/{stem}.png"):
                links[f"camvid/{file}"] = shared_datasets / "camvid" / file
    for split in ("train", "val"):
        for folder in ("leftImg8bit", "gtFine"):
            target = shared_datasets / f"samples/cityscapes/{folder}/val"
            links[f"cityscapes/{folder}/{split}"] = target
    for name, target in links.items():
        if not target.exists():
            pytest.skip(f"needs the real frame: no {target}")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root


@pytest.fixture
def cfg(frames, tmp_path):
    cfg = new_config()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list([
        "MODEL.DEVICE", "cpu",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16,
        "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 16,
        "INPUT.MIN_SIZE_TRAIN", (96,),
        "INPUT.MIN_SIZE_TEST", 96,
        "INPUT.CROP.SIZE", [64, 64],
        "SOLVER.IMS_PER_BATCH", 3,
        "SOLVER.MAX_ITER", 2,
        "DATALOADER.NUM_WORKERS", 0,
        "OUTPUT_DIR", str(tmp_path / "run"),
    ])  # fmt: skip
    Path(cfg.OUTPUT_DIR).mkdir()
    return cfg


def test_each_dataset_has_its_own_labels_in_the_one_tree(cfg):
    h = resolve_hierarchy(cfg)
    mapper = HieraDatasetMapper(
        True, hierarchy=h, ignore_label=255, augmentations=[], image_format="RGB"
    )
    (frame,) = DatasetCatalog.get("hiera_street_camvid_test")
    labels = mapper(frame)["sem_seg"].numpy()
    raw = np.asarray(Image.open(frame["sem_seg_file_name"]))
    assert labels[labels != 255].max() < h.num_leaves
    assert (labels[raw == 17] == h.id("flat/road_surface/Road")).all() and (raw == 17).any()

    (frame,) = DatasetCatalog.get("hiera_street_cityscapes_val")
    labels = mapper(frame)["sem_seg"].numpy()
    raw = np.asarray(Image.open(frame["sem_seg_file_name"]))
    # By the ids of the release: road 7, building 11, vegetation 21, sky 23, person 24, car 26
    nodes = {7: "flat", 11: "construction", 21: "nature", 23: "/sky", 24: "human", 26: "vehicle"}
    for value, node in nodes.items():
        assert (labels[raw == value] == h.id(node)).all() and (raw == value).any()
    assert (h.depth[labels[labels != 255]] == 0).all()
    assert (labels[np.isin(raw, [1, 2, 3, 4])] == 255).all()  # ego vehicle, borders, static


def test_all_classes_of_cityscapes_with_a_category_have_a_node():
    mapped = [name for names in CITYSCAPES_NODES.values() for name in names]
    assert len(mapped) == len(set(mapped))
    void = CLASSES[:7]  # the dataset's own category "void"
    assert set(mapped) == set(CLASSES) - set(void)


def test_batches_hold_both_datasets(cfg):
    batches = itertools.islice(build_hiera_train_loader(cfg), 3)
    drawn = [sample for batch in batches for sample in batch]
    names = {sample["dataset_name"] for sample in drawn}
    assert names == set(cfg.DATASETS.TRAIN)
    num_leaves = resolve_hierarchy(cfg).num_leaves
    for sample in drawn:
        labels = sample["sem_seg"][sample["sem_seg"] != 255]
        fine = sample["dataset_name"] == "hiera_street_camvid_train"
        assert (labels < num_leaves).all() if fine else (labels >= num_leaves).all()


def test_a_dataset_named_twice_is_drawn_twice_as_often(cfg):
    camvid, cityscapes = cfg.DATASETS.TRAIN
    cfg.DATASETS.TRAIN = (camvid, camvid, cityscapes)  # 2 + 2 + 1 frames: an epoch holds five
    cfg.SOLVER.IMS_PER_BATCH = 5
    (batch,) = itertools.islice(build_hiera_train_loader(cfg), 1)
    names = [sample["dataset_name"] for sample in batch]
    assert (names.count(camvid), names.count(cityscapes)) == (4, 1)


def test_two_iterations_and_an_evaluation(cfg):
    trainer = HieraTrainer(cfg)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    results = trainer.train()
    after = list(trainer.model.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))

    camvid, cityscapes = (results[name]["sem_seg"] for name in cfg.DATASETS.TEST)
    for found in (camvid, cityscapes):
        assert 0 <= found["mIoU_category"] <= 100
    assert 0 <= camvid["mIoU"] <= 100
    # No pixel of Cityscapes has a known class: the finer levels have nothing to score.
    assert math.isnan(cityscapes["mIoU"]) and math.isnan(cityscapes["tree_distance"])
    assert not math.isnan(cityscapes["pACC_category"])
