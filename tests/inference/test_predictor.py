"""The predictor: what goes in, what comes out, and that TEST.AUG reaches it."""

import numpy as np
import pytest
import torch
from PIL import Image

from hiera_seg import Hierarchy
from hiera_seg.errors import CheckpointError, ConfigError, DatasetError, HierarchyError
from hiera_seg.inference import HieraPredictor, HieraSegmentorWithTTA, augmentation
from hiera_seg.modeling.build import build_model
from tests.helpers import new_config


@pytest.fixture
def cfg():
    cfg = new_config()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST = 30
    return cfg


def test_labels_scores_and_names(cfg, make_model, image, tree):
    model = make_model(stride=4)
    result = HieraPredictor(cfg, model)(image[:, :, ::-1])
    resized = torch.as_tensor(np.array(Image.fromarray(image).resize((42, 30), 2)))
    sample = {"image": resized.permute(2, 0, 1), "height": 40, "width": 56}
    expected = model([sample])[0]
    assert torch.equal(result["sem_seg"], expected["sem_seg"])
    assert torch.equal(result["labels"], expected["hiera_labels"][-1])
    assert len(result["hiera_labels"]) == len(result["hiera_labels_direct"]) == 3
    counts = np.bincount(result["labels"].numpy().ravel(), minlength=tree.num_nodes)
    assert list(result["names"].values()) == [
        tree.display_names[v] for v in np.argsort(-counts, kind="stable") if counts[v]
    ]


def test_a_path_is_an_array_in_bgr(cfg, make_model, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "a.png")
    predictor = HieraPredictor(cfg, make_model(stride=4))
    expected = predictor(image[:, :, ::-1])["sem_seg"]
    assert torch.equal(predictor(tmp_path / "a.png")["sem_seg"], expected)
    assert torch.equal(predictor(str(tmp_path / "a.png"))["sem_seg"], expected)
    cfg.INPUT.FORMAT = "BGR"
    predictor = HieraPredictor(cfg, make_model(stride=4))
    found = predictor(tmp_path / "a.png")["sem_seg"]
    assert torch.equal(found, predictor(image[:, :, ::-1])["sem_seg"])
    assert not torch.equal(found, expected)


def test_files_of_floats_and_turned_files_are_read_by_the_keys(cfg, make_model, image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = image[..., 0]
    Image.fromarray(grey / np.float32(255)).save(tmp_path / "a.tif", exif=exif)
    with pytest.raises(DatasetError, match=r"a\.tif.* INPUT\.IMAGE_RANGE"):
        HieraPredictor(cfg, make_model(stride=4))(tmp_path / "a.tif")
    cfg.INPUT.IMAGE_RANGE, cfg.INPUT.EXIF = [0, 1], "ignore"
    for augmented in (False, True):
        cfg.TEST.AUG.ENABLED = augmented
        predictor = HieraPredictor(cfg, make_model(stride=4))
        expected = predictor(np.repeat(grey[..., None], 3, -1))["sem_seg"]
        assert torch.equal(predictor(tmp_path / "a.tif")["sem_seg"], expected)


def test_an_array_becomes_what_the_model_was_trained_on(cfg, make_model, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "a.png")
    cfg.INPUT.MIN_SIZE_TEST = 0
    for image_format in ("L", "YUV-BT.601"):
        cfg.INPUT.FORMAT = image_format
        predictor = HieraPredictor(cfg, make_model(stride=4))
        expected = predictor._read(tmp_path / "a.png")
        found = predictor._read(image[:, :, ::-1])
        assert found.shape == expected.shape == (*image.shape[:2], 1 if image_format == "L" else 3)
        np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64  # of YUV; the network computes in float32
    (result,) = predictor.model.predict([torch.from_numpy(found).permute(2, 0, 1).float()])
    assert torch.equal(predictor(tmp_path / "a.png")["sem_seg"], result["sem_seg"])


def test_a_list_gives_a_list(cfg, make_model, image):
    predictor = HieraPredictor(cfg, make_model(stride=4))
    images = [image, image[:33], image[::-1].copy()]
    results = predictor(images)
    assert [tuple(x["labels"].shape) for x in results] == [(40, 56), (33, 56), (40, 56)]
    for result, one in zip(results, images, strict=True):
        torch.testing.assert_close(result["sem_seg"], predictor(one)["sem_seg"])
    assert predictor([]) == []
    batch = predictor(np.stack([image, image[::-1]]))
    assert torch.equal(batch[1]["labels"], results[2]["labels"]) and len(batch) == 2
    assert len(predictor(x for x in images)) == 3


def test_levels_by_name_and_safe_depth(cfg, make_model, image, tree):
    predictor = HieraPredictor(cfg, make_model(stride=4))
    result = predictor(image, level="group")
    assert torch.equal(result["labels"], result["hiera_labels"][0])
    assert set(result["names"]) <= set(tree.level_nodes(0).tolist())
    assert torch.equal(predictor(image, level=0)["labels"], result["labels"])
    unsure = predictor(image, safe_depth=2.0)
    assert np.isin(unsure["labels"].numpy(), tree.level_nodes(0)).all()
    assert not np.isin(predictor(image)["labels"].numpy(), tree.level_nodes(0)).all()
    with pytest.raises(HierarchyError, match="groups"):
        predictor(image, level="groups")


def test_names_under_a_safe_depth_are_unique(cfg, make_model, image):
    """A group and a leaf may share a display name, and a path may equal another's."""
    tree = Hierarchy.from_dict({"person": ["person", "rider"], "sky": None, "car": ["bus", "van"]})
    predictor = HieraPredictor(cfg, make_model(stride=4, tree=tree))
    names = predictor(image, safe_depth=0.7)["names"]
    inner, leaf = tree.id("person", level=0), tree["person"]
    assert (names[inner], names[leaf]) == ("person", "person/person")
    assert len(set(names.values())) == len(names)
    others = names.keys() - {inner, leaf}
    assert others and all(names[v] == tree.display_names[v] for v in others)
    assert predictor(image)["names"][leaf] == "person"
    assert predictor(image, level=0, safe_depth=0.7)["names"][inner] == "person"


def test_large_images_show_progress(cfg, make_model, image, capsys, monkeypatch):
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.CROP_SIZE = True, [16, 16]
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (30, 40), True
    predictor = HieraPredictor(cfg, make_model(stride=4))
    predictor(image)
    assert capsys.readouterr().err == ""  # it took less than two seconds
    monkeypatch.setattr(augmentation, "_PATIENCE", 0)
    predictor(image, progress=False)
    assert capsys.readouterr().err == ""
    predictor(image)
    # 3 x 4 windows of 30 x 42 pixels, 4 x 5 of 40 x 56, each also mirrored
    assert "/64 " in capsys.readouterr().err


def test_label_maps_alone_have_the_smallest_type(cfg, make_model, image):
    for leaves, dtype in ((250, torch.uint8), (300, torch.uint16)):
        tree = Hierarchy.from_dict({"group": [f"leaf{i}" for i in range(leaves)]})
        predictor = HieraPredictor(cfg, make_model(stride=8, tree=tree, output="labels"))
        both = make_model(stride=8, tree=tree)
        found, expected = predictor(image), HieraPredictor(cfg, both)(image)
        maps = [found["labels"], *found["hiera_labels"], *found["hiera_labels_direct"]]
        assert {x.dtype for x in maps} == {dtype}
        assert expected["labels"].dtype == torch.int64
        assert torch.equal(found["labels"].long(), expected["labels"])
        assert found["names"] == expected["names"]


def test_scores_of_the_labels(cfg, make_model, image, tree):
    predictor = HieraPredictor(cfg, make_model(stride=4))
    result = predictor(image, level="part", scores=True)
    assert torch.equal(result["scores"], result["hiera_confidence"][1])
    model = predictor.model  # behind its sigmoid, the value of the label's own channel
    values = decode_values(model, image, cfg)
    for row, column in ((0, 0), (17, 30), (39, 55)):
        node = result["labels"][row, column]
        expected = values[node, row, column].sigmoid()
        torch.testing.assert_close(result["scores"][row, column], expected, rtol=1e-4, atol=1e-5)
    plain = predictor(image, level="part")
    assert set(result) - set(plain) == {"scores", "hiera_confidence", "hiera_scores"}
    for key in plain:
        assert key == "names" or all(map(torch.equal, result[key], plain[key])), key
    unsure = predictor(image, safe_depth=0.4, scores=True)
    asked = torch.as_tensor(tree.depth[: tree.num_leaves] > 0).nonzero()  # not the top level
    below = torch.isin(unsure["labels"], asked)
    assert below.any() and (unsure["scores"][below] >= 0.4).all()
    assert (unsure["labels"] >= tree.num_leaves).any()


def decode_values(model, image, cfg):
    """(N, H, W) logits at the image's size."""
    (view,) = HieraPredictor(cfg, model)._views([image[:, :, ::-1]])[0]
    return torch.nn.functional.interpolate(
        torch.nn.functional.interpolate(view.output.values, view.padded_size, mode="bilinear")[
            ..., : view.image_size[0], : view.image_size[1]
        ],
        image.shape[:2],
        mode="bilinear",
    )[0]


def test_output_as_the_model_is_set(cfg, make_model, image):
    labels = HieraPredictor(cfg, make_model(output="labels", direct=False))(image)
    assert set(labels) == {"hiera_labels", "labels", "names"}
    assert set(HieraPredictor(cfg, make_model(output="scores"))(image)) == {"sem_seg"}


def test_keys_of_the_config_change_the_decoding_of_a_model(cfg, make_model, image):
    """Such as those that were set after `load_published`."""
    model = make_model(stride=4, variant="leaf")
    cfg.MODEL.HIERA_SEG.TEST.MIN_CONFIDENCE = 0.9
    found = HieraPredictor(cfg, model)(image)
    cfg.MODEL.HIERA_SEG.TEST.MIN_CONFIDENCE = -1.0
    expected = HieraPredictor(cfg, model)(image, safe_depth=0.9)
    assert torch.equal(found["labels"], expected["labels"])
    assert torch.equal(found["sem_seg"], expected["sem_seg"])  # of the model's own variant
    assert not torch.equal(found["labels"], HieraPredictor(cfg, model)(image)["labels"])


def test_test_time_augmentation_by_config(cfg, make_model, image):
    model = make_model(stride=4)
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES = (30, 44)
    cfg.TEST.AUG.CROP_SIZE = [24, 24]
    augmented = HieraSegmentorWithTTA(cfg, model)
    expected = model.decode(augmented.views(image), (40, 56))
    found = HieraPredictor(cfg, model)([image[:, :, ::-1]])[0]
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"])
    cfg.TEST.AUG.ENABLED = False
    plain = HieraPredictor(cfg, model)(image[:, :, ::-1])
    assert not torch.allclose(plain["sem_seg"], expected["sem_seg"])


def test_what_is_no_image(cfg, make_model, image, tmp_path):
    predictor = HieraPredictor(cfg, make_model())
    for wrong in (
        image.astype(np.float32), image[:, :, 0], image[:0], None, 3, torch.as_tensor(image),
        Image.fromarray(image), [image, None], np.zeros((2, 4, 6, 1), np.uint8),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"a uint8 array \(H, W, 3\) in BGR, found"):
            predictor(wrong)
    with pytest.raises(ValueError, match="min_confidence is -1"):
        predictor(image, safe_depth=-1)
    with pytest.raises(DatasetError, match=r"none\.png"):
        predictor(tmp_path / "none.png")
    with pytest.raises(ConfigError, match=r"MODEL\.META_ARCHITECTURE: HieraPredictor .*Identity"):
        HieraPredictor(cfg, torch.nn.Identity())


def test_weights_of_the_config(cfg, image, tree, tmp_path):
    """A network built from a config; weights that are missing, of another tree, or of no head."""
    tree.to_yaml(tmp_path / "figure.yaml")
    cfg.MODEL.META_ARCHITECTURE = "HieraSegmentor"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.update(
        DEPTH=18, RES2_OUT_CHANNELS=64, OUT_FEATURES=["res2", "res5"], NORM="BN"
    )
    cfg.MODEL.SEM_SEG_HEAD.update(
        NAME="HieraPixelHead", NORM="BN", IN_FEATURES=["res2", "res5"], CONVS_DIM=8,
        ASPP_CHANNELS=8, ASPP_DILATIONS=[1, 2, 3],
    )  # fmt: skip
    cfg.MODEL.HIERA_SEG.HIERARCHY = str(tmp_path / "figure.yaml")
    cfg.MODEL.HIERA_SEG.LOSSES, cfg.MODEL.WEIGHTS = [["bce", 1.0]], ""
    cfg.OUTPUT_DIR = str(tmp_path)
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS is empty"):
        HieraPredictor(cfg)
    random = HieraPredictor(cfg, build_model(cfg))
    state = random.model.state_dict()
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: no such"):
        HieraPredictor(cfg)
    torch.save({"model": state}, cfg.MODEL.WEIGHTS)
    cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.update(METHOD="inverse", FILE="where/it/trained.json")
    assert torch.equal(HieraPredictor(cfg)(image)["sem_seg"], random(image)["sem_seg"])
    backbone = {key: value for key, value in state.items() if key.startswith("backbone")}
    torch.save({"model": backbone}, cfg.MODEL.WEIGHTS)
    with pytest.raises(CheckpointError, match="no segmentation head"):
        HieraPredictor(cfg)
    torch.save({"model": state}, cfg.MODEL.WEIGHTS)
    cfg.MODEL.HIERA_SEG.HIERARCHY = "lip"
    with pytest.raises(CheckpointError, match=r": sem_seg_head\.predictor"):
        HieraPredictor(cfg)


@pytest.mark.parametrize("wish", [{"scores": True}, {"level": 0}, {"safe_depth": 0.5}])
def test_what_is_of_labels_is_refused_where_there_are_none(cfg, make_model, image, wish):
    predictor = HieraPredictor(cfg, make_model(stride=4, output="scores"))
    assert "sem_seg" in predictor(image)
    with pytest.raises(ValueError, match="OUTPUT is 'scores'.*'both' or 'labels'"):
        predictor(image, **wish)
