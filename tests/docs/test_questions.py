"""What the page of questions answers is so: its error messages, and claims no other test checks."""

import pickle
import re

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from hiera_seg import Hierarchy
from hiera_seg.checkpoint import HieraCheckpointer, read_checkpoint
from hiera_seg.cli import load_config
from hiera_seg.config import resolve_hierarchy
from hiera_seg.data import LabelReader
from hiera_seg.data.catalog import require_registered
from hiera_seg.errors import CheckpointError, ConfigError, DatasetError
from hiera_seg.modeling import decode_variant
from tests.helpers import CONFIGS, new_config, read_page

PAGE = read_page("docs/questions.md")
TREE = Hierarchy.from_dict({"flat": ["road"], "vehicle": ["car", "truck"]}, name="street")


def message_of(error: type[Exception], call, *args) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    return str(caught.value)


def matches(quotation: str, message: str) -> bool:
    return bool(re.search(".*".join(map(re.escape, quotation.split("..."))), message))


def test_error_messages_are_quoted_as_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    raw = np.array([[9]], np.uint8)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": print}))
    other = Hierarchy.from_dict({"flat": ["road"], "vehicle": ["car", "bus"]}, name="other")
    content = {"model": {"weight": torch.zeros(5)}, "hierarchy": other.to_dict()}
    torch.save(content, tmp_path / "a.pth")
    model = torch.nn.Module()
    model.hierarchy = TREE
    messages = [
        message_of(DatasetError, DatasetCatalog.get, "hiera_lip_train"),
        message_of(DatasetError, LabelReader(TREE, {0: "road"}).lookup, raw),
        message_of(DatasetError, LabelReader(TREE).lookup, raw),
        message_of(ConfigError, decode_variant, "auto", ["my_loss"]),
        message_of(CheckpointError, read_checkpoint, tmp_path / "a.pkl"),
        message_of(CheckpointError, HieraCheckpointer(model).load, str(tmp_path / "a.pth")),
        message_of(ConfigError, require_registered, ["never_heard_of"], "DATASETS.TEST"),
    ]
    headings = re.findall(r'^### "(.*)"$', PAGE.split("## Errors")[1], flags=re.MULTILINE)
    assert len(headings) == len(messages)
    for heading, message in zip(headings, messages, strict=True):
        assert matches(heading.replace("street_val", "never_heard_of"), message), message
    others = [
        message_of(ConfigError, resolve_hierarchy, new_config()),
        message_of(AttributeError, lambda: MetadataCatalog.get("never_heard_of").stuff_classes),
    ]
    text = " ".join(PAGE.split('which is not registered"')[1].split())
    quoted = re.findall(r'"([^"]+)"', text)[:2]
    for quotation, message in zip(quoted, others, strict=True):
        assert matches(quotation, message), message


def test_number_of_classes_is_the_trees_and_sync_bn_runs_anywhere():
    options = ["MODEL.HIERA_SEG.HIERARCHY", "pascal_person_part", "INPUT.CROP.SIZE", "[64, 64]"]
    options += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "1000", "MODEL.DEVICE", "cpu"]
    cfg = load_config(str(CONFIGS / "Base-DeepLabV3Plus-R18.yaml"), options)
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == cfg.MODEL.RESNETS.NORM == "SyncBN"
    model = build_model(cfg)
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    labels = torch.randint(0, 7, (64, 64))
    losses = model.train()([{"image": image, "sem_seg": labels}])  # a batch of one, too
    assert all(loss.isfinite() for loss in losses.values())
    assert model.eval()([{"image": image}])[0]["sem_seg"].shape == (7, 64, 64)
