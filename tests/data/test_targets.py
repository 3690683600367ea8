"""HieraDatasetMapper for the models of others: leaves, one mask per class, annotated objects."""

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import Boxes, BoxMode
from PIL import Image

from hiera_seg.data import HieraDatasetMapper, register_hierarchical_dataset
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import new_config

# Raw ids: five leaves, 5 the inner node "body", 255 void. The rows are 8 pixels high.
RAW = np.array([[0, 1, 5], [2, 5, 255], [2, 3, 4]], np.uint8).repeat(16, 0).repeat(16, 1)
LABEL_MAP = {0: "road", 1: "grass", 2: "left-arm", 3: "right-arm", 4: "head", 5: "body"}
LEAVES = np.where(RAW == 5, 255, RAW)
BOX = {"bbox": [16, 32, 32, 48], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}


@pytest.fixture
def cfg(tree, folders):
    images, labels = folders({"a": RAW, "b": np.full_like(RAW, 5)})
    annotation = {**BOX, "segmentation": [[16, 32, 32, 32, 32, 48, 16, 48]]}
    source = [
        {"file_name": f"{images}/{stem}.png", "sem_seg_file_name": f"{labels}/{stem}.png",
         "annotations": [annotation, {**annotation, "iscrowd": 1}]} for stem in "ab"
    ]  # fmt: skip
    register_hierarchical_dataset(
        "toy", source, hierarchy=tree, label_map=LABEL_MAP, flip_pairs=[("left-arm", "right-arm")]
    )
    cfg = new_config("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5)
    cfg.DATASETS.TRAIN = ("toy",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


def test_inner_labels_become_void_for_flat_models(cfg, tree):
    record = DatasetCatalog.get("toy")[0]
    sample = HieraDatasetMapper(cfg, True, output="leaves")(record)
    assert np.array_equal(sample["sem_seg"], LEAVES) and "instances" not in sample
    assert (
        HieraDatasetMapper(cfg, True)(record)["sem_seg"] == tree["body"]
    ).any()  # the default keeps them
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    mapper, flipped = HieraDatasetMapper(cfg, True, output="leaves"), set()
    swapped = np.where(LEAVES == 2, 3, np.where(LEAVES == 3, 2, LEAVES))[:, ::-1]
    for _ in range(20):
        labels = mapper(record)["sem_seg"].numpy()
        flipped.add(np.array_equal(labels, swapped))
        assert np.array_equal(labels, swapped) or np.array_equal(labels, LEAVES)
    assert flipped == {True, False}


@pytest.mark.parametrize("output", ["leaves", "instances"])
def test_crops_of_flat_models_do_not_count_inner_nodes_as_a_category(cfg, output):
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE = True, "absolute"
    cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = [8, 48], 0.99
    mapper, record = HieraDatasetMapper(cfg, True, output=output), DatasetCatalog.get("toy")[0]
    np.random.seed(0)
    leaves = [np.setdiff1d(mapper(record)["sem_seg"], 255) for _ in range(20)]
    # Rows 16 to 32 show one leaf beside void.
    assert all(len(found) > 1 for found in leaves)


def test_a_mask_per_leaf(cfg):
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE = True, "absolute"
    cfg.INPUT.CROP.SIZE = [64, 48]  # higher than the image, which is padded
    mapper = HieraDatasetMapper(cfg, True, output="instances")
    first, second = map(mapper, DatasetCatalog.get("toy"))
    instances = first["instances"]
    assert instances.image_size == (64, 48) == tuple(first["image"].shape[1:])
    assert instances.gt_classes.tolist() == [0, 1, 2, 3, 4]
    assert instances.gt_classes.dtype == torch.int64 and instances.gt_masks.dtype == torch.bool
    padded = np.full((64, 48), 255)
    padded[:48] = LEAVES
    assert np.array_equal(first["sem_seg"], padded)
    assert np.array_equal(instances.gt_masks, padded == np.arange(5)[:, None, None])
    assert isinstance(instances.gt_boxes, Boxes)
    assert instances.gt_boxes.tensor[2].tolist() == [0, 16, 16, 48]
    # An image without a leaf still has instances, of length 0.
    assert len(second["instances"]) == 0 and second["instances"].gt_masks.shape == (0, 64, 48)
    assert second["instances"].gt_boxes.tensor.shape == (0, 4)


def test_annotated_objects_beside_node_ids(cfg, tree):
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    sample = HieraDatasetMapper(cfg, True, output="panoptic")(DatasetCatalog.get("toy")[0])
    assert sample["image"].shape == (3, 96, 96) and (sample["sem_seg"] == tree["body"]).any()
    objects = sample["instances"]  # without the crowd
    assert objects.gt_boxes.tensor.tolist() == [[32, 64, 64, 96]]
    assert objects.gt_classes.tolist() == [1] and len(objects.gt_masks) == 1


@pytest.mark.parametrize("size", [(64, 64), (20, 28), (64, 28)])
def test_masks_and_boxes_of_objects_follow_crops_and_padding(cfg, size):
    triangle = np.tri(48, dtype=np.uint8)
    mask = pycocotools.mask.encode(np.asfortranarray(triangle))
    record = DatasetCatalog.get("toy")[0]
    record["annotations"] = [{**BOX, "bbox": [0, 0, 48, 48], "segmentation": mask}]
    Image.fromarray(np.repeat(255 * triangle[..., None], 3, 2)).save(record["file_name"])
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE = True, "absolute"
    cfg.INPUT.CROP.SIZE, cfg.INPUT.MASK_FORMAT = list(size), "bitmask"
    cfg.MODEL.PIXEL_MEAN = [0.0] * 3  # the padding
    mapper, sizes = HieraDatasetMapper(cfg, True, output="panoptic"), set()
    for _ in range(10):
        sample = mapper(record)
        objects, shown = sample["instances"], sample["image"][0] > 0
        if not shown.any():
            assert len(objects) == 0
            continue
        assert torch.equal(objects.gt_masks.tensor[0], shown)
        rows, columns = shown.any(1).nonzero(), shown.any(0).nonzero()
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert objects.gt_boxes.tensor[0].tolist() == expected
        sizes.add(tuple(objects.gt_boxes.tensor[0].tolist()))
    assert len(sizes) > 1 or size == (64, 64)


def test_errors_name_the_key(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 54
    for output in ("leaves", "instances"):
        with pytest.raises(ConfigError, match="NUM_CLASSES is 54; set it to 5.*'toy'"):
            HieraDatasetMapper(cfg, True, output=output)
    with pytest.raises(ConfigError, match="output is 'masks'"):
        HieraDatasetMapper(cfg, True, output="masks")


def test_void_that_a_flat_head_would_not_ignore_is_refused(cfg, tmp_path):
    Hierarchy.from_dict([f"n{i}" for i in range(300)], name="wide").to_yaml(tmp_path / "wide.yaml")
    cfg.merge_from_list(
        ["MODEL.HIERA_SEG.HIERARCHY", f"{tmp_path}/wide.yaml", "DATASETS.TRAIN", ()]
    )
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 300
    with pytest.raises(ConfigError, match="IGNORE_VALUE is 255.*'wide'.*65535"):
        HieraDatasetMapper(cfg, True, output="leaves")
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 65535
    assert HieraDatasetMapper(cfg, True, output="leaves").ignore_label == 65535


def test_point_rend_is_trained_on_leaves(cfg):
    add_pointrend_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
            *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 16),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.SEM_SEG_HEAD.NAME", "PointRendSemSegHead"),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.POINT_HEAD.FC_DIM", 16),
            *("MODEL.POINT_HEAD.NUM_CLASSES", 5, "SOLVER.IMS_PER_BATCH", 2),
        ]
    )
    model = build_model(cfg)
    mapper = HieraDatasetMapper(cfg, True, output="leaves")
    loader = iter(build_detection_train_loader(cfg, mapper=mapper))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        losses = model(next(loader))
        total = sum(losses.values())
        assert {"loss_sem_seg", "loss_sem_seg_point"} == set(losses) and torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
