"""Test-time augmentation: averages by hand, symmetry, left and right, the original image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from PIL import Image

from hiera_seg import Hierarchy
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.images import ImageReader
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.inference import HieraSegmentorWithTTA
from hiera_seg.inference.augmentation import mirrored_nodes
from hiera_seg.layers.scores import DECODE_VARIANTS, NodeOutput, node_scores
from tests.helpers import new_config

from .conftest import ColumnHead, ConvolutionHead, ScoreHead


def as_input(image, **more):
    return {"image": torch.from_numpy(image).permute(2, 0, 1).contiguous(), **more}


def resizes(*sizes):
    return [T.ResizeShortestEdge(size, 4000) for size in sizes]


def assert_same(found, expected, **tolerances):
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], **tolerances)
    for key in ("hiera_labels", "hiera_labels_direct"):
        for level, other in zip(found[key], expected[key], strict=True):
            assert (level == other).float().mean() > 0.999


def test_one_view_of_the_image_as_it_is_changes_nothing(make_model, image):
    model = make_model(stride=4)
    augmented = HieraSegmentorWithTTA(model, resizes=resizes(0))
    assert_same(augmented([as_input(image)])[0], model([as_input(image)])[0], rtol=0, atol=0)


@pytest.mark.parametrize("head", [ConvolutionHead, ScoreHead])
def test_the_mirrored_copy_of_a_symmetric_network_changes_nothing(make_model, image, head):
    model = make_model(stride=1, head=head)
    augmented = HieraSegmentorWithTTA(model, resizes=resizes(0), flip=True)
    assert len(augmented.views(image)) == 2
    expected = model([as_input(image)])[0]
    assert_same(augmented([as_input(image)])[0], expected, rtol=1e-5, atol=1e-5)
    resized = HieraSegmentorWithTTA(model, resizes=resizes(60), flip=True)
    plain = HieraSegmentorWithTTA(model, resizes=resizes(60))
    assert_same(resized([as_input(image)])[0], plain([as_input(image)])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", DECODE_VARIANTS)
def test_probabilities_of_all_views_are_averaged(make_model, image, tree, variant):
    model = make_model(stride=4, variant=variant)
    augmented = HieraSegmentorWithTTA(model, resizes=resizes(32, 60), flip=True)
    found = augmented([as_input(image)])[0]

    levels = [0.0] * tree.num_levels
    for size in (32, 60):
        width = int(56 * size / 40 + 0.5)
        resized = np.array(Image.fromarray(image).resize((width, size), Image.BILINEAR))
        for flip in (False, True):
            copy = resized[:, ::-1].copy() if flip else resized
            with torch.no_grad():
                logits = model.node_views([as_input(copy)["image"]])[0].output.values
            logits = F.interpolate(logits, (size, width), mode="bilinear")
            logits = F.interpolate(logits, (40, 56), mode="bilinear")
            scores = node_scores(
                NodeOutput(logits.flip(-1) if flip else logits, "logits"), tree, variant
            )
            levels = [total + scores.at_level(n)[0] / 4 for n, total in enumerate(levels)]
    per_leaf = [levels[n][tree.leaf_to_level(n).copy()] for n in range(tree.num_levels)]
    if variant in ("leaf", "marginal"):
        expected = per_leaf[-1]
    elif variant == "path_product":
        expected = torch.stack(per_leaf).prod(0)
    else:
        expected = torch.stack(per_leaf).sum(0)
    torch.testing.assert_close(found["sem_seg"], expected, rtol=1e-4, atol=1e-5)
    for n, direct in enumerate(found["hiera_labels_direct"]):
        best = torch.as_tensor(tree.level_nodes(n).copy())[levels[n].argmax(0)]
        assert (direct == best).float().mean() > 0.999
    assert (found["hiera_labels"][-1] == expected.argmax(0)).float().mean() > 0.999


def test_left_and_right_swap_in_the_mirrored_copy(make_model, image, tree):
    model = make_model(head=ColumnHead)
    swap = np.arange(tree.num_nodes)
    swap[[tree["left-arm"], tree["right-arm"]]] = tree["right-arm"], tree["left-arm"]
    plain = model([as_input(image)])[0]["sem_seg"]
    with_swap = HieraSegmentorWithTTA(model, resizes=resizes(0), flip=True, swap=swap)
    found = with_swap([as_input(image)])[0]["sem_seg"]
    torch.testing.assert_close(found, plain)
    without = HieraSegmentorWithTTA(model, resizes=resizes(0), flip=True)
    found = without([as_input(image)])[0]["sem_seg"]
    torch.testing.assert_close(found[tree["left-arm"]], found[tree["right-arm"]])


def test_the_original_is_read_where_the_input_is_a_resized_copy(make_model, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "a.png")
    augmented = HieraSegmentorWithTTA(make_model(stride=4), resizes=resizes(32, 60))
    expected = augmented([as_input(image)])[0]
    copy = as_input(image[::2, ::2].copy(), height=40, width=56)
    found = augmented([{**copy, "file_name": str(tmp_path / "a.png")}])[0]
    assert_same(found, expected, rtol=0, atol=0)
    Image.fromarray(image[..., 0] / np.float32(255)).save(tmp_path / "floats.tif")
    augmented.read_image = ImageReader(value_range=(0, 1))
    expected = augmented([as_input(np.repeat(image[..., :1], 3, -1))])[0]
    found = augmented([{**copy, "file_name": str(tmp_path / "floats.tif")}])[0]
    assert_same(found, expected, rtol=0, atol=0)
    with pytest.raises(DatasetError, match='original image .*"file_name"'):
        augmented([copy])
    with pytest.raises(DatasetError, match=r"nowhere\.png"):
        augmented([{**copy, "file_name": str(tmp_path / "nowhere.png")}])


def test_it_follows_the_mode_of_its_model_and_does_not_train(make_model, image):
    model = make_model()
    assert not HieraSegmentorWithTTA(model, resizes=resizes(0)).training
    augmented = HieraSegmentorWithTTA(model.train(), resizes=resizes(0))
    with pytest.raises(RuntimeError, match="train its .model"):
        augmented([as_input(image)])
    augmented.eval()
    assert not model.training


@pytest.fixture
def cfg(tree):
    cfg = new_config()
    cfg.TEST.AUG.MIN_SIZES = (32, 60)
    name = "inference_figure_test"
    register_hierarchical_dataset(
        name, list, hierarchy=tree, flip_pairs=[("left-arm", "right-arm")]
    )
    cfg.DATASETS.TEST = (name,)
    return cfg


def test_a_config_says_it_all(cfg, make_model, tree, image):
    model = make_model()
    augmented = HieraSegmentorWithTTA(cfg, model)
    assert [view.image_size[0] for view in augmented.views(image)] == [32, 32, 60, 60]
    assert augmented.window is None
    assert augmented.swap.tolist() == mirrored_nodes(cfg, tree).tolist()
    assert augmented.swap[tree["left-arm"]] == tree["right-arm"]
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP, cfg.TEST.AUG.CROP_SIZE = (), False, [24, 32]
    cfg.INPUT.MIN_SIZE_TEST = 30
    augmented = HieraSegmentorWithTTA(cfg, model)
    assert (augmented.window, augmented.stride, augmented.swap) == ((24, 32), (16, 21), None)
    assert [view.image_size[0] for view in augmented.views(image)] == [30]
    cfg.TEST.AUG.STRIDE = [10, 32]
    assert HieraSegmentorWithTTA(cfg, model).stride == (10, 32)


def test_pairs_of_all_datasets_are_turned_back(cfg):
    own = {"group": {"left": ["left-arm", "left-leg"], "right": ["right-arm", "right-leg"]}}
    both = Hierarchy.from_dict(own)
    pairs = {"arms": ("left-arm", "right-arm"), "legs": ("left-leg", "right-leg")}
    crossed = {"crossed": ("left-arm", "right-leg")}
    for name, pair in (pairs | crossed).items():
        register_hierarchical_dataset(name, list, hierarchy=both, flip_pairs=[pair])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("arms",), ("legs",)
    swap = mirrored_nodes(cfg, both)
    for name in ("arm", "leg"):
        left, right = both[f"left-{name}"], both[f"right-{name}"]
        assert (swap[left], swap[right]) == (right, left)
    assert swap[both["left"]] == both["right"]  # which neither dataset says alone
    cfg.DATASETS.TEST = ("crossed",)
    message = "'crossed': '.*left-arm' .* with '.*right-leg', .* with '.*right-arm'"
    with pytest.raises(DatasetError, match=message):
        mirrored_nodes(cfg, both)


def test_unknown_pairs_are_named(cfg, tree, caplog):
    register_hierarchical_dataset("without_pairs", list, hierarchy=tree)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("without_pairs",), ()
    assert mirrored_nodes(cfg, tree) is None
    assert not caplog.records
    cfg.DATASETS.TRAIN = ("not_imported",)
    assert mirrored_nodes(cfg, tree) is None
    (record,) = caplog.records
    assert "'not_imported'" in record.message and "flip_pairs" in record.message


def test_a_stock_model_is_refused(cfg):
    with pytest.raises(ConfigError, match=r"TEST\.AUG\.ENABLED .*Linear"):
        HieraSegmentorWithTTA(cfg, torch.nn.Linear(1, 1))


def test_sizes_that_can_not_work(cfg, make_model):
    model = make_model()
    for crop, stride, message in (
        ([24], [], r"TEST\.AUG\.CROP_SIZE is \[24\]; .*\[height, width\]"),
        ([24, 0], [], r"CROP_SIZE is \[24, 0\]"),
        ([], [8, 8], r"TEST\.AUG\.STRIDE is \[8, 8\], .*CROP_SIZE \[\]"),
        ([24, 24], [8, 25], r"STRIDE is \[8, 25\], larger than .*CROP_SIZE"),
    ):
        cfg.TEST.AUG.CROP_SIZE, cfg.TEST.AUG.STRIDE = crop, stride
        with pytest.raises(ConfigError, match=message):
            HieraSegmentorWithTTA(cfg, model)
