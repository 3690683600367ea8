"""Small checkpoints with the official names of Mask2Former, by command and by function."""

import json
import pickle
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from hiera_seg import Hierarchy
from hiera_seg.checkpoint import HieraCheckpointer, allow_unsafe_pickle
from hiera_seg.checkpoint.convert import convert_checkpoint
from hiera_seg.cli import load_config
from tests.helpers import REPOSITORY

NAMES = REPOSITORY / "tests/modeling/golden/mask2former_r50_cityscapes_semantic.json"
PREDICTOR = "sem_seg_head.transformer_decoder.class_predictor"
CONFIG = f"""
_BASE_: {REPOSITORY}/configs/Base-Mask2Former.yaml
MODEL:
  DEVICE: cpu
  WEIGHTS: ""
  RESNETS: {{WIDTH_PER_GROUP: 8, STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16}}
  SEM_SEG_HEAD: {{CONVS_DIM: 32}}
  HIERA_SEG:
    HIERARCHY: HERE/tree.yaml
    MASK_FORMER:
      NUM_QUERIES: 8
      HIDDEN_DIM: 32
      NUM_HEADS: 4
      DIM_FEEDFORWARD: 64
      DECODER_LAYERS: 3
      ENCODER_LAYERS: 1
      ENCODER_DIM_FEEDFORWARD: 48
"""
OFFICIAL = ["road", "car", "traffic light"]  # of the checkpoint
TREE = {"ground": {"road": None, "grass": None}, "thing": {"Traffic_Light": None, "car": None}}


def small(name: str, shape: list[int]) -> tuple[int, ...] | None:
    """The shape of an official tensor in the small network; None where it has no such layer."""
    parts = name.split(".")
    for block, layers in (("encoder", 1), ("attention_layers", 3), ("ffn_layers", 3)):
        at = next((i for i, part in enumerate(parts) if part.endswith(block)), None)
        if at is not None:
            index = parts[at + 2] if block == "encoder" else parts[at + 1]
            if int(index) >= layers:
                return None
    sizes = {256: 32, 768: 96, 100: 8, 192: 96, 96: 48, 20: len(OFFICIAL) + 1}
    sizes |= {2048: 64} if "ffn" in name else {2048: 128, 1024: 64, 512: 32}
    if "encoder.layers" in name:
        sizes[1024] = 48
    shape = [sizes.get(n, n) for n in shape]
    if name.endswith("adapter_1.weight"):
        shape[1] = 16
    return tuple(shape)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a config, its tree, and official.pth; the current folder of the test."""
    monkeypatch.chdir(tmp_path)
    Hierarchy.from_dict(TREE, name="small").to_yaml("tree.yaml")
    Path("config.yaml").write_text(CONFIG.replace("HERE", str(tmp_path)))
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in json.loads(NAMES.read_text()).items():
        shape = None if name.startswith("backbone") else small(name, shape)
        if shape is not None:
            state[name] = torch.randn(shape, generator=generator)
    backbone = build_model(load_config("config.yaml", [])).backbone.state_dict()
    for name, value in backbone.items():
        values = torch.randn(value.shape, generator=generator)
        state[f"backbone.{name}"] = values if value.is_floating_point() else value
    torch.save({"model": state}, "official.pth")
    Path("classes.txt").write_text("\n".join(OFFICIAL))
    return tmp_path


@pytest.fixture
def official(folder):
    return torch.load("official.pth")["model"]


@pytest.fixture
def convert(start_tool):
    tool = start_tool("convert_checkpoint")
    return partial(tool, "--from", "mask2former", "--config-file", "config.yaml")


def test_every_tensor_finds_its_place_and_is_reported(folder, official, convert):
    code, out, err = convert("--classes", "classes.txt", "official.pth", "new/ours.pth")
    assert (code, err) == (0, "")
    model = build_model(load_config("config.yaml", []))
    loaded = sum(not name.endswith("num_batches_tracked") for name in model.state_dict())
    tracked = sum(name.endswith("num_batches_tracked") for name in official)
    lines = out.splitlines()
    assert lines[0] == f"loaded: {loaded + tracked} tensors"
    assert "skipped: 1 tensors of the checkpoint" in lines
    assert "  criterion.empty_weight (1): the network has no such tensor" in lines
    assert "randomly initialized: 0 tensors of the network" in lines
    assert "note: class layer: 3 of 4 leaves by name; missing in the checkpoint: grass" in lines
    assert lines[-1] == "wrote new/ours.pth"

    stored = torch.load("new/ours.pth")["hierarchy"]
    assert Hierarchy.from_dict(**stored) == Hierarchy.load("tree.yaml")
    HieraCheckpointer(model).load("new/ours.pth")
    state = model.state_dict()
    attention = "sem_seg_head.predictor.transformer_cross_attention_layers.1.multihead_attn"
    ours = "sem_seg_head.transformer_decoder.layers.1.cross_attention"
    query, key, value = official[f"{attention}.in_proj_weight"].chunk(3)
    for kind, expected in (("query", query), ("key", key), ("value", value)):
        assert torch.equal(state[f"{ours}.{kind}.weight"], expected)
    encoder = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn"
    assert torch.equal(
        state["sem_seg_head.pixel_decoder.layers.0.attention.offsets.bias"],
        official[f"{encoder}.sampling_offsets.bias"],
    )


def convert_into(cfg, file="official.pth"):
    return convert_checkpoint(file, "mask2former", build_model(cfg), classes="classes.txt")


def test_class_rows_move_by_name(folder, official):
    cfg = load_config("config.yaml", [])
    torch.manual_seed(0)
    state, _ = convert_into(cfg)
    torch.manual_seed(0)
    fresh = build_model(cfg).state_dict()
    for kind in ("weight", "bias"):
        theirs = official[f"sem_seg_head.predictor.class_embed.{kind}"]
        ours = state[f"{PREDICTOR}.{kind}"]
        road, car, light, nothing = theirs
        expected = torch.stack([road, fresh[f"{PREDICTOR}.{kind}"][1], light, car, nothing])
        assert torch.equal(ours, expected)


def test_sigmoids_start_from_the_difference_to_no_object(folder, official):
    cfg = load_config("config.yaml", ["MODEL.HIERA_SEG.MASK_FORMER.OPTION", "node_sigmoid"])
    state, report = convert_into(cfg)
    theirs = official["sem_seg_head.predictor.class_embed.bias"]
    ours = state[f"{PREDICTOR}.bias"]
    assert ours.shape == (6,)
    torch.testing.assert_close(ours[[0, 3, 2]], theirs[:3] - theirs[3])
    torch.testing.assert_close(ours[[1, 4, 5]].sigmoid(), torch.full((3,), 0.05))
    assert any("inner nodes are randomly initialized" in note for note in report.notes)


def test_sigmoids_of_a_tree_with_one_inner_node_are_no_softmax(folder, official):
    Hierarchy.from_dict({"all": ["road", "car", "traffic light"]}).to_yaml("tree.yaml")
    cfg = load_config("config.yaml", ["MODEL.HIERA_SEG.MASK_FORMER.OPTION", "node_sigmoid"])
    theirs = official["sem_seg_head.predictor.class_embed.bias"]
    ours = convert_into(cfg)[0][f"{PREDICTOR}.bias"]
    torch.testing.assert_close(ours[:3], theirs[:3] - theirs[3])
    torch.testing.assert_close(ours[3].sigmoid(), torch.tensor(0.05))


@pytest.mark.parametrize("options", [{}, {"classes": "classes.txt"}])
def test_names_that_differ_in_case_alone_are_two_classes(folder, official, options):
    names = ["Car", "car", "light"]
    Hierarchy.from_dict({"thing": names}).to_yaml("tree.yaml")
    Path("classes.txt").write_text("\n".join(names))
    model = build_model(load_config("config.yaml", []))
    state, _ = convert_checkpoint("official.pth", "mask2former", model, **options)
    expected = official["sem_seg_head.predictor.class_embed.weight"]
    assert torch.equal(state[f"{PREDICTOR}.weight"], expected)


def test_as_many_classes_as_leaves_are_taken_in_order_and_that_is_said(folder, official):
    Hierarchy.from_dict({"ground": ["road"], "thing": ["light", "car"]}).to_yaml("tree.yaml")
    cfg = load_config("config.yaml", [])
    state, report = convert_checkpoint("official.pth", "mask2former", build_model(cfg))
    assert torch.equal(
        state[f"{PREDICTOR}.weight"], official["sem_seg_head.predictor.class_embed.weight"]
    )
    assert any("assumed" in note and "--classes" in note for note in report.notes)


def test_the_zoos_pickles_of_arrays_and_old_names_are_read(folder, official):
    arrays = {name: value.numpy() for name, value in official.items()}
    queries = arrays.pop("sem_seg_head.predictor.query_feat.weight")
    arrays["sem_seg_head.predictor.static_query.weight"] = queries
    with open("model_final.pkl", "wb") as file:
        pickle.dump({"model": arrays, "__author__": "somebody"}, file)
    cfg = load_config("config.yaml", [])
    state, report = convert_into(cfg, "model_final.pkl")
    found = state["sem_seg_head.transformer_decoder.query_features.weight"]
    np.testing.assert_array_equal(found.numpy(), queries)
    assert report.initialized == []


def test_a_file_that_is_trusted_is_unpickled(folder, official, convert):
    with open("tensors.pkl", "wb") as file:
        pickle.dump({"model": official}, file)
    arguments = ["--classes", "classes.txt", "tensors.pkl", "ours.pth"]
    code, _, err = convert(*arguments)
    assert code == 1 and "torch._utils._rebuild_tensor_v2" in err and "--unsafe-pickle" in err
    try:
        assert convert("--unsafe-pickle", *arguments)[0] == 0
    finally:
        allow_unsafe_pickle(False)


def test_tensors_of_another_size_are_skipped_and_said(folder, official, convert):
    options = ["--opts", "MODEL.HIERA_SEG.MASK_FORMER.NUM_QUERIES", "9"]
    arguments = ["--classes", "classes.txt", "official.pth", "ours.pth", *options]
    code, out, _ = convert(*arguments)
    assert code == 0
    assert "  sem_seg_head.transformer_decoder (2): it is 8 x 32, the network's 9 x 32" in out
    drawn = "randomly initialized: 2 tensors of the network\n  sem_seg_head.transformer_decoder (2)"
    assert drawn in out


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_code_in_a_pickle_is_not_run(folder, convert):
    with open("bad.pkl", "wb") as file:
        pickle.dump({"model": {"x": Malicious()}}, file)
    torch.save({"model": {"x": Malicious()}}, "bad.pth")
    code, out, err = convert("bad.pkl", "ours.pth")
    assert (code, out) == (1, "") and "builtins.print" in err and err.count("\n") == 1
    code, out, err = convert("bad.pth", "ours.pth")
    assert (code, out) == (1, "") and "could execute code" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.pth", "ours.pth"], 1, "none.pth: no such checkpoint file"),
        (["classes.txt", "ours.pth"], 1, "classes.txt: it is a text file"),
        (["empty.pth", "ours.pth"], 1, 'empty.pth: no tensors by name, neither .* "model"'),
        (["other.pth", "ours.pth"], 1, "other.pth: .* 1 tensors .*mask2former.*layer.w"),
        (["official.pth", "ours.pth"], 2, r"3 classes .* has 4 leaves.*\(--classes\)"),
        (["--classes", "camvid", "official.pth", "o.pth"], 2, "camvid: 31 classes.* has 3"),
        (["--classes", "none.txt", "official.pth", "o.pth"], 2, "class names none.txt"),
        (["--classes", "latin.txt", "official.pth", "o.pth"], 2, "latin.txt: .*UTF-8"),
        (["--classes", "classes.txt", "headless.pth", "o.pth"], 2, "classes.txt: .*class layer"),
        (["--classes", "classes.txt", "official.pth", "classes.txt/x"], 2, "OUT: .*classes.txt"),
        (["--from", "mmdet", "official.pth", "ours.pth"], 2, "invalid choice: 'mmdet'"),
    ],
)
def test_bad_input_is_one_line(folder, convert, arguments, code, message):
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    official = torch.load("official.pth")["model"]
    torch.save({k: v for k, v in official.items() if "class_embed" not in k}, "headless.pth")
    torch.save({"epoch": 3}, "empty.pth")
    torch.save({"layer.weight": torch.zeros(2)}, "other.pth")
    found, out, err = convert(*arguments)
    assert (found, out) == (code, "")
    assert re.search(message, err) and "Traceback" not in err, err


def test_values_that_the_network_cannot_have_are_named(folder, official, convert):
    name = "sem_seg_head.predictor.mask_embed.layers.0.weight"
    torch.save({"model": {**official, name: official[name].long()}}, "integers.pth")
    code, out, err = convert("--classes", "classes.txt", "integers.pth", "ours.pth")
    assert (code, out) == (1, "") and not Path("ours.pth").exists()
    assert "integers.pth: " in err and "mask_embedding.0.weight is int64" in err
