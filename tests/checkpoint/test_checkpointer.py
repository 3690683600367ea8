"""Which checkpoints a model takes: its own tree's, others' when told to, stock ones, no others."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hiera_seg import Hierarchy
from hiera_seg.checkpoint import HieraCheckpointer
from hiera_seg.errors import CheckpointError
from hiera_seg.inference.weights import load_for_eval

STREET = Hierarchy.from_dict({"flat": ["road", "pavement"], "vehicle": ["car", "truck"]}, name="a")
REORDERED = STREET.with_leaf_order(["car", "road", "truck", "pavement"])
LARGER = Hierarchy.from_dict({"flat": ["road", "pavement"], "vehicle": ["car", "bus", "truck"]})


class Head(nn.Module):
    class_rows = {"predictor": "nodes"}

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hidden = nn.Linear(3, 4)
        self.predictor = nn.Linear(4, hierarchy.num_nodes)


class Segmentor(nn.Module):
    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hierarchy = hierarchy
        self.sem_seg_head = Head(hierarchy)


class State:
    def __init__(self, value: int = 0):
        self.value = value

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained() -> Segmentor:
    model = Segmentor(STREET)
    HieraCheckpointer(model, ".", trainer=State(5)).save("street", iteration=7)
    return model


def row(model: Segmentor, path: str) -> torch.Tensor:
    return model.sem_seg_head.predictor.weight[model.hierarchy.id(path)]


def test_a_checkpoint_stores_its_tree_as_plain_data(trained):
    content = torch.load("street.pth", weights_only=True)
    assert Hierarchy.from_dict(**content["hierarchy"]) == STREET
    assert content["iteration"] == 7


def test_the_same_tree_under_another_name_loads(trained):
    other = Segmentor(Hierarchy.from_dict(**{**STREET.to_dict(), "name": "b"}))
    state = State()
    extra = HieraCheckpointer(other, ".", trainer=state).load("street.pth")
    assert torch.equal(row(other, "vehicle/car"), row(trained, "vehicle/car"))
    assert state.value == 5 and extra["iteration"] == 7


@pytest.mark.parametrize(
    ("tree", "reason"),
    [(REORDERED, "its nodes have another order"), (LARGER, "it lacks 'vehicle/bus'")],
)
def test_another_tree_is_refused(trained, tree, reason):
    model = Segmentor(tree)
    before = row(model, "vehicle/car").clone()
    with pytest.raises(
        CheckpointError, match=f"^street.pth: .*{reason}.*MAP_CLASSES True"
    ) as caught:
        HieraCheckpointer(model).load("street.pth")
    assert "\n" not in str(caught.value)
    assert torch.equal(row(model, "vehicle/car"), before)
    with pytest.raises(CheckpointError, match=reason):
        load_for_eval(model, "street.pth")


@pytest.mark.parametrize("tree", [REORDERED, LARGER])
def test_rows_move_by_name_when_told_to(trained, tree):
    model = Segmentor(tree)
    before = {path: row(model, path).clone() for path in tree.paths}
    HieraCheckpointer(model, map_classes=True).load("street.pth")
    for path in tree.paths:
        expected = row(trained, path) if path in STREET.paths else before[path]
        assert torch.equal(row(model, path), expected), path
    hidden = trained.sem_seg_head.hidden.weight
    assert torch.equal(model.sem_seg_head.hidden.weight, hidden)


def test_rows_of_another_kind_are_refused_where_their_number_is_the_same():
    tree = Hierarchy.from_dict({"road": None, "vehicle": ["car", "truck"]})
    model, other = Segmentor(tree), Segmentor(tree)
    model.sem_seg_head.class_rows = {"predictor": "leaves_and_none"}
    HieraCheckpointer(model, ".").save("queries")
    HieraCheckpointer(model).load("queries.pth")
    with pytest.raises(CheckpointError, match=r"queries\.pth: .*predictor.*leaves_and_none.*nodes"):
        HieraCheckpointer(other).load("queries.pth")


def test_averaged_weights_in_a_checkpoint_move_too(trained):
    content = torch.load("street.pth")
    torch.save({**content, "ema": trained.state_dict()}, "averaged.pth")
    model = Segmentor(REORDERED)
    found = HieraCheckpointer(model, map_classes=True).load("averaged.pth")
    assert found["ema"].keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(found["ema"][name], value), name


def test_predicting_needs_weights_of_every_node(trained):
    load_for_eval(Segmentor(REORDERED), "street.pth", map_classes=True)
    with pytest.raises(CheckpointError, match=r"^street\.pth: .*vehicle/bus"):
        load_for_eval(Segmentor(LARGER), "street.pth", map_classes=True)


def test_rows_of_weights_that_were_saved_wrapped_move_too(trained):
    content = torch.load("street.pth")
    wrapped = {f"module.{name}": value for name, value in content["model"].items()}
    torch.save({**content, "model": wrapped}, "wrapped.pth")
    model = Segmentor(REORDERED)
    HieraCheckpointer(model, map_classes=True).load("wrapped.pth")
    for path in STREET.paths:
        assert torch.equal(row(model, path), row(trained, path)), path


@pytest.mark.parametrize(
    "lacking", ["sem_seg_head.predictor.weight", "sem_seg_head.hidden.bias", "norm.running_var"]
)
def test_predicting_needs_every_weight_that_predictions_depend_on(lacking):
    model = Segmentor(STREET)
    model.norm, model.extra = nn.BatchNorm2d(2), nn.Linear(2, 2)
    model.extra.training_only = True
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("extra.")}
    torch.save(state, "whole.pth")
    load_for_eval(model, "whole.pth")
    del state[lacking]
    torch.save(state, "part.pth")
    HieraCheckpointer(model).load("part.pth")
    with pytest.raises(CheckpointError, match=f"^part.pth: .*{lacking}"):
        load_for_eval(model, "part.pth")


def test_a_run_is_not_resumed_under_another_tree(trained):
    for map_classes in (False, True):
        checkpointer = HieraCheckpointer(
            Segmentor(LARGER), ".", map_classes=map_classes, trainer=State()
        )
        with pytest.raises(CheckpointError, match=r"street\.pth: .*new OUTPUT_DIR.*MAP_CLASSES"):
            checkpointer.resume_or_load("", resume=True)


def test_a_tree_that_can_not_be_read(trained):
    content = torch.load("street.pth")
    for tree in ({"tree": {"a": 3}}, {"nope": 1}, "text"):
        torch.save({**content, "hierarchy": tree}, "odd.pth")
        with pytest.raises(CheckpointError, match=r"^odd\.pth: .*tree under \"hierarchy\""):
            HieraCheckpointer(Segmentor(STREET)).load("odd.pth")


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_without_a_tree_load_as_ever(wrapped, trained):
    state = {f"module.{k}" if wrapped else k: v for k, v in trained.state_dict().items()}
    torch.save(state, "plain.pth")
    model = Segmentor(REORDERED)
    HieraCheckpointer(model).load("plain.pth")
    assert torch.equal(model.sem_seg_head.predictor.weight, trained.sem_seg_head.predictor.weight)


def test_a_model_without_a_tree_takes_any(trained):
    model = nn.ModuleDict({"sem_seg_head": Head(STREET)})
    HieraCheckpointer(model).load("street.pth")
    assert torch.equal(model["sem_seg_head"].hidden.bias, trained.sem_seg_head.hidden.bias)


def zoo_pickle() -> dict:
    """Names and arrays as in Detectron2's R-50.pkl."""
    return {"stem.conv1.weight": np.full((2, 3, 1, 1), 0.5, np.float32), "stem.fc.bias": np.ones(1)}


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.Conv2d(3, 2, 1)})})


@pytest.mark.parametrize(
    "content",
    [
        {"model": zoo_pickle(), "__author__": "torchvision", "matching_heuristics": True},
        {"model_state": zoo_pickle()},
        {"blobs": {"conv1_w": np.full((2, 3, 1, 1), 0.5, np.float32), "a_momentum": np.ones(1)}},
        {"conv1_w": np.full((2, 3, 1, 1), 0.5, np.float32)},
    ],
    ids=["zoo", "pycls", "caffe2 blobs", "caffe2"],
)
def test_stock_backbones_load_by_matching_their_names(content):
    with open("R-50.pkl", "wb") as file:
        pickle.dump(content, file, protocol=2)
    model = Backbone()
    HieraCheckpointer(model).load("R-50.pkl")
    assert (model.backbone["stem"]["conv1"].weight == 0.5).all()


def test_the_query_that_asks_for_matching(folder):
    torch.save({k: torch.from_numpy(v) for k, v in zoo_pickle().items()}, "R-50.pth")
    model = Backbone()
    with pytest.raises(CheckpointError, match=r"^R-50\.pth: none of its tensors"):
        HieraCheckpointer(model).load("R-50.pth")
    HieraCheckpointer(model).load("R-50.pth?matching_heuristics=True")
    assert (model.backbone["stem"]["conv1"].weight == 0.5).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"epoch": 3}, r"found 'epoch' \(int\)"),
        ({"model": {}}, "found nothing"),
        ({"model": [1]}, '"model" is a list, not a dict of tensors'),
        ({"model": {"w": torch.ones(1), "n": "x"}}, r"found 'n' \(str\)"),
        ({"state_dict": {"w": torch.ones(1)}}, 'under "state_dict", .* tools/convert_checkpoint'),
        ([1, 2], "holds a list, not a dict"),
        (torch.ones(2), "holds a Tensor, not a dict"),
        ({"layer.weight": torch.ones(2)}, "none of its tensors"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(content, reason):
    torch.save(content, "x.pth")
    for model in (Segmentor(STREET), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))):
        with pytest.raises(CheckpointError, match=rf"^x\.pth: .*{reason}") as caught:
            HieraCheckpointer(model).load("x.pth")
        assert "\n" not in str(caught.value)


NAN, WEIGHT = float("nan"), "sem_seg_head.hidden.weight"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.ones(4, 3, dtype=torch.int64), "is int64 in the file, but float32 in the model"),
        (torch.ones(4, 3, dtype=torch.bool), "is bool in the file"),
        (torch.ones(4, 3, dtype=torch.complex64), "is complex64 in the file"),
        (torch.full((4, 3), NAN), "holds only NaN"),
        (torch.full((4, 3), NAN).half(), "holds only NaN"),
    ],
)
def test_values_that_a_model_cannot_have_are_named(trained, value, reason, wrapped):
    state = {**trained.state_dict(), WEIGHT: value}
    torch.save({f"module.{k}" if wrapped else k: v for k, v in state.items()}, "x.pth")
    model = Segmentor(STREET)
    for load in (HieraCheckpointer(model).load, partial(load_for_eval, model)):
        with pytest.raises(CheckpointError, match=rf"^x\.pth: .*{WEIGHT} {reason}"):
            load("x.pth")


def test_rows_that_move_and_averages_are_of_floats_too(trained):
    content = torch.load("street.pth")
    integers = {k: v.long() for k, v in trained.state_dict().items()}
    torch.save({**content, "model": integers}, "x.pth")
    with pytest.raises(CheckpointError, match=r"^x\.pth: .*sem_seg_head\.\S+ is int64"):
        HieraCheckpointer(Segmentor(REORDERED), map_classes=True).load("x.pth")
    torch.save({**content, "ema": integers}, "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: .*sem_seg_head\.\S+ is int64"):
        load_for_eval(Segmentor(STREET), "x.pth", average=True)


def test_integers_in_a_zoo_file_are_named():
    content = {"model": {**zoo_pickle(), "stem.conv1.weight": np.ones((2, 3, 1, 1), np.int64)}}
    with open("R-50.pkl", "wb") as file:
        pickle.dump({**content, "__author__": "x", "matching_heuristics": True}, file)
    with pytest.raises(CheckpointError, match=r"^R-50\.pkl: .*stem\.conv1\.weight is int64"):
        HieraCheckpointer(Backbone()).load("R-50.pkl")


def test_counters_may_be_of_other_integers_and_whole_floats_alone():
    model = nn.BatchNorm2d(2)
    state = model.state_dict()
    for count in (torch.tensor(7, dtype=torch.int32), torch.tensor(7.0)):
        torch.save({**state, "num_batches_tracked": count}, "x.pth")
        HieraCheckpointer(model).load("x.pth")
        assert model.num_batches_tracked == 7
    torch.save({**state, "num_batches_tracked": torch.tensor(7.5)}, "x.pth")
    with pytest.raises(CheckpointError, match=r"^x\.pth: .*num_batches_tracked is float32"):
        HieraCheckpointer(model).load("x.pth")


def test_state_that_does_not_fit_the_run(trained):
    class Other(State):
        def load_state_dict(self, state):
            raise ValueError("loaded state dict has a different number of parameter groups")

    checkpointer = HieraCheckpointer(Segmentor(STREET), trainer=Other())
    with pytest.raises(CheckpointError, match=r'^street\.pth: .*"trainer".*different numb'):
        checkpointer.load("street.pth")
    checkpointer.load("street.pth", checkpointables=[])


@pytest.mark.parametrize("content", ["gone.pth", ""])
def test_a_last_checkpoint_that_is_gone(trained, content, folder):
    (folder / "last_checkpoint").write_text(content)
    with pytest.raises(CheckpointError, match=r"last_checkpoint: names .*street\.pth"):
        HieraCheckpointer(Segmentor(STREET), ".").resume_or_load("", resume=True)


@pytest.mark.parametrize(
    "address",
    [
        "http://x.invalid/a.pth",
        "ftp://x.invalid/a.pth",
        "s3://x/a.pth",
        "https://x.invalid/../../a.pth",  # iopath would write outside of its cache
        "detectron2://../../a.pth",
    ],
)
def test_addresses_that_are_refused(monkeypatch, address):
    checkpointer = HieraCheckpointer(Segmentor(STREET))
    asked = []
    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", asked.append)
    with pytest.raises(CheckpointError) as error:
        checkpointer.load(address)
    assert address in str(error.value) and "refused" in str(error.value)
    assert asked == []


@pytest.mark.parametrize("address", ["https://x.invalid/a.pth", "detectron2://a.pth"])
def test_a_download_is_told_before_it_starts(trained, monkeypatch, caplog, address):
    checkpointer = HieraCheckpointer(Segmentor(STREET))

    def get_local_path(path):
        assert address in caplog.text
        return "street.pth"

    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", get_local_path)
    checkpointer.load(address)
    assert any(address in r.getMessage() and r.levelname == "WARNING" for r in caplog.records)
