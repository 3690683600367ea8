"""Inference files: the predictions of the checkpoint, and files that must be refused."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.inference import HieraPredictor, load_published, publish
from hiera_seg.inference.published import _digest
from hiera_seg.losses.node_weights import write_node_counts
from hiera_seg.modeling.build import build_model

pytest.importorskip("safetensors", reason="needs safetensors")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


def small_model(cfg):
    """Random weights and statistics, with clear differences between the classes."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight, std=0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["hiera_seg"])


def assert_same_predictions(path, cfg, model):
    image = np.random.default_rng(0).integers(256, size=(40, 48, 3), dtype=np.uint8)
    found, expected = HieraPredictor(path)(image), HieraPredictor(cfg, model)(image)
    assert (found["sem_seg"].cpu() - expected["sem_seg"]).abs().max() < 0.01
    assert (found["labels"].cpu() == expected["labels"]).float().mean() > 0.99
    assert len(expected["labels"].unique()) > 1
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.half())
    rounded = HieraPredictor(cfg, model)(image)
    torch.testing.assert_close(found["sem_seg"].cpu(), rounded["sem_seg"])
    assert torch.equal(found["labels"].cpu(), rounded["labels"])


def test_a_file_predicts_as_its_checkpoint(cfg, tmp_path, street):
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN = "RGB", [120.0, 110.0, 100.0]
    model = small_model(cfg)
    path = tmp_path / "model.safetensors"
    publish(path, cfg, model, metrics={"mIoU": 61.5, "dataset": "tiny_street_train"})
    assert_same_predictions(path, cfg, model)

    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    assert path.stat().st_size < 0.55 * size
    about = metadata_of(path)
    assert load_published(path).about == about
    assert load_published(path).model.hierarchy == street
    assert about["metrics"]["mIoU"] == 61.5 and "tiny_street_train" in about["license"]
    assert about["config"]["MODEL.PIXEL_MEAN"] == [120.0, 110.0, 100.0]
    assert about["config"]["INPUT.FORMAT"] == "RGB" and "MODEL.PIXEL_STD" in about["config"]
    assert str(tmp_path) not in json.dumps(about)  # no folder of the machine
    state = load_file(path)
    assert state["backbone.res2.0.conv1.weight"].dtype == torch.float16
    variances = state["backbone.res2.0.conv1.norm.running_var"]
    assert torch.equal(variances, model.backbone.res2[0].conv1.norm.running_var)


def test_adjusted_logits_and_mirrored_classes_are_kept(cfg, tmp_path, street, monkeypatch):
    counts = {path: 10**i for i, path in enumerate(street.paths)}
    (tmp_path / "counted_to_publish").mkdir()
    write_node_counts(tmp_path / "counted_to_publish/counts.json", counts)
    monkeypatch.syspath_prepend(tmp_path)
    name = "published_figure"
    register_hierarchical_dataset(name, list, hierarchy=street, flip_pairs=[("car", "truck")])
    try:
        cfg.DATASETS.TRAIN = (name,)
        cfg.MODEL.HIERA_SEG.LOSSES = [["marginal_ce", 1.0]]
        cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.TAU = 0.5
        cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.FILE = (
            "package://counted_to_publish/counts.json"
        )
        cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES = True, (40,)
        model = small_model(cfg)
        publish(tmp_path / "model.safetensors", cfg, model)
        assert_same_predictions(tmp_path / "model.safetensors", cfg, model)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    about = metadata_of(tmp_path / "model.safetensors")
    assert about["flip_pairs"] == [[street["car"], street["truck"]]]
    assert about["node_counts"] == counts and about["metrics"] is None


@pytest.fixture
def published(cfg, tmp_path):
    path = tmp_path / "model.safetensors"
    publish(path, cfg, small_model(cfg))
    return path


def forge(path, change, *, rehash=True):
    """Write a file again with a changed description, as somebody may who knows the format."""
    about, state = metadata_of(path), load_file(path)
    change(about)
    if rehash:
        about["sha256"] = _digest(about, state)
    save_file(state, path, {"hiera_seg": json.dumps(about)})


def test_changed_files_are_refused(published):
    content = bytearray(published.read_bytes())
    content[-1000] ^= 1
    published.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .* SHA-256"):
        HieraPredictor(published)
    content[-1000] ^= 1
    published.write_bytes(content)
    load_published(published)
    forge(published, lambda about: about.update(metrics={"mIoU": 99.0}), rehash=False)
    with pytest.raises(CheckpointError, match="SHA-256"):
        HieraPredictor(published)
    published.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*cut short"):
        HieraPredictor(published)


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.WEIGHTS", "https://example.org/weights.pth"),
        ("MODEL.HIERA_SEG.TIMM.CHECKPOINT", "/etc/passwd"),
        ("MODEL.HIERA_SEG.TIMM.PRETRAINED", True),
        ("MODEL.HIERA_SEG.HIERARCHY", "/etc/passwd"),
        ("OUTPUT_DIR", "/tmp"),
        ("DATASETS.TRAIN", ["x"]),
        ("MODEL.RESNETS.UNKNOWN", 1),
        ("MODEL.RESNETS.DEPTH", "deep"),
        ("MODEL.RESNETS.DEPTH", {"a": 1}),
        ("MODEL.BACKBONE.NAME", "no_such_backbone"),
        ("MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 24),
        ("MODEL.PIXEL_MEAN", "https://example.org/mean"),
        ("MODEL.SEM_SEG_HEAD.NORM", "(" * 5000),
    ],
)
def test_a_config_cannot_reach_other_files_or_the_network(published, key, value):
    forge(published, lambda about: about["config"].update({key: value}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: ") as caught:
        HieraPredictor(published)
    named = {"MODEL.SEM_SEG_HEAD.CONVS_DIM": "tensors", "MODEL.SEM_SEG_HEAD.NORM": "(("}
    assert named.get(key, key.rpartition(".")[2]) in str(caught.value)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda about: about.pop("hierarchy"), "hierarchy"),
        (lambda about: about.update(config=[]), "config"),
        (lambda about: about.update(version=2), "version 2"),
        (lambda about: about["hierarchy"].update(tree={"a": 5}), "a"),
        (lambda about: about.update(hierarchy={"nodes": 1}), "nodes"),
        (lambda about: about.update(flip_pairs=[[0, 99]]), "flip_pairs"),
        (lambda about: about.update(flip_pairs=[5]), "flip_pairs"),
    ],
)
def test_a_description_that_is_incomplete_or_wrong(published, change, named):
    forge(published, change)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{named}"):
        HieraPredictor(published)


def test_other_files(published, tmp_path, cfg):
    save_file(load_file(published), tmp_path / "plain.safetensors")
    save_file(load_file(published), tmp_path / "text.safetensors", {"hiera_seg": "{"})
    torch.save({"model": load_file(published)}, tmp_path / "model.pth")
    for name, message in (
        ("plain.safetensors", "publish_weights"),
        ("text.safetensors", "description"),
        ("model.pth", "publish_weights"),
        ("none.safetensors", "no such"),
    ):
        with pytest.raises(CheckpointError, match=rf"{name}: .*{message}"):
            HieraPredictor(tmp_path / name)
    with pytest.raises(ConfigError, match="Linear"):
        publish(tmp_path / "x.safetensors", cfg, torch.nn.Linear(1, 1))
