"""Rows of class layers between trees."""

import copy
from collections.abc import Callable

import pytest
import torch
from detectron2.modeling import build_model

from hiera_seg import Hierarchy
from hiera_seg.checkpoint.trees import class_layers, difference, match_nodes, move_rows
from tests.helpers import new_config
from tests.tiny_street import SMALL_NETWORK

OLD = Hierarchy.from_dict(
    {"flat": {"road": None, "pavement": None}, "vehicle": {"car": None, "truck": None}, "sky": None}
)
NEW = Hierarchy.from_dict(
    {
        "thing": {"Vehicle": {"truck": None, "bus": None}},
        "sky": None,
        "flat": {"pavement": None, "road": None, "rail": None},
        "car": None,
    }
)


def test_nodes_are_found_by_path_and_else_by_a_name_that_no_other_has():
    found = {NEW.paths[v]: OLD.paths[u] for v, u in match_nodes(OLD, NEW).items()}
    assert found == {
        "sky": "sky",
        "flat": "flat",
        "flat/road": "flat/road",
        "flat/pavement": "flat/pavement",
        "thing/Vehicle": "vehicle",
        "thing/Vehicle/truck": "vehicle/truck",
        "car": "vehicle/car",
    }


def test_names_of_several_nodes_and_leaves_that_have_children_now():
    two = Hierarchy.from_dict({"left": {"hand": None}, "right": {"hand": None}})
    one = Hierarchy.from_dict({"body": {"hand": None}})
    assert match_nodes(two, one) == match_nodes(one, two) == {}
    coarse = Hierarchy.from_dict({"vehicle": None, "sky": None})
    fine = Hierarchy.from_dict({"vehicle": ["car", "bus"], "sky": None})
    assert match_nodes(coarse, fine) == {fine[name]: coarse[name] for name in ("vehicle", "sky")}
    plus, minus = (Hierarchy.from_dict([sign, "sky"]) for sign in "+-")
    assert match_nodes(plus, minus) == {1: 1}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("nodes", lambda h: list(h.paths)),
        ("leaves", lambda h: list(h.paths[: h.num_leaves])),
        ("leaves_and_none", lambda h: [*h.paths[: h.num_leaves], "nothing"]),
    ],
)
def test_rows_follow_their_nodes(kind, rows: Callable[[Hierarchy], list[str]]):
    theirs, ours = rows(OLD), rows(NEW)
    given = {"a.weight": torch.arange(len(theirs)).float()[:, None] + torch.zeros(1, 3)}
    own = {"a.weight": torch.full((len(ours), 3), -1.0, dtype=torch.float64)}
    before = copy.deepcopy(given)
    state = dict(given)
    missing = move_rows(state, own, {"a.weight": kind, "b.weight": kind}, OLD, NEW)
    match = {NEW.paths[v]: OLD.paths[u] for v, u in match_nodes(OLD, NEW).items()}
    match["nothing"] = "nothing"
    for row, name in enumerate(ours):
        expected = theirs.index(match[name]) if match.get(name) in theirs else -1
        assert state["a.weight"][row].tolist() == [expected] * 3, name
    assert set(missing) == {name for name in ours if match.get(name) not in theirs}
    assert state["a.weight"].dtype == torch.float64
    assert torch.equal(given["a.weight"], before["a.weight"]), "the given tensor is not changed"


@pytest.mark.parametrize("shape", [(9, 3), (7, 4), (7,)])
def test_a_layer_of_another_width_is_left_alone(shape):
    state = {"a.weight": torch.zeros(shape)}
    layer = state["a.weight"]
    own = {"a.weight": torch.zeros(NEW.num_nodes, 3)}
    assert move_rows(state, own, {"a.weight": "nodes"}, OLD, NEW) == []
    assert state["a.weight"] is layer


def test_differences_are_named():
    assert difference(OLD, OLD) == ""
    other_name = Hierarchy.from_dict(**{**OLD.to_dict(), "name": "x", "levels": ["a", "b"]})
    assert difference(OLD, other_name) == ""
    order = ["sky", "road", "pavement", "car", "truck"]
    assert difference(OLD, OLD.with_leaf_order(order)) == "its nodes have another order"
    text = difference(OLD, NEW)
    assert text.startswith("it lacks ") and " and has 'vehicle/car', " in text


QUERIES = "MODEL.HIERA_SEG.MASK_FORMER."
QUERY_HEAD = [
    *("MODEL.SEM_SEG_HEAD.NAME", "HieraMaskFormerHead", "MODEL.HIERA_SEG.LOSSES", []),
    *(f"{QUERIES}PIXEL_DECODER", "fpn", f"{QUERIES}HIDDEN_DIM", 16),
    *(f"{QUERIES}DECODER_LAYERS", 1, f"{QUERIES}NUM_QUERIES", 3),
]
NETWORKS = {
    "pixel head with all it can have": ["MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4],
    "regions of nodes": ["MODEL.HIERA_SEG.PIXEL_DECODER", "ocr"],
    "regions of leaves": [
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "ocr", "MODEL.HIERA_SEG.OCR.REGIONS", "leaf"),
    ],
    "queries over leaves": QUERY_HEAD,
    "queries over nodes": [*QUERY_HEAD, f"{QUERIES}OPTION", "node_sigmoid"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_name_all_layers_that_depend_on_the_tree(name, tmp_path):
    shapes = []
    for index, tree in enumerate((OLD, NEW)):
        file = str(tmp_path / f"{index}.yaml")
        tree.to_yaml(file)
        options = [*SMALL_NETWORK, "MODEL.HIERA_SEG.HIERARCHY", file]
        model = build_model(new_config(*options, *NETWORKS[name]))
        shapes.append({key: value.shape for key, value in model.state_dict().items()})
    of_tree = {key for key, shape in shapes[1].items() if shapes[0][key] != shape}
    layers = class_layers(model)
    assert of_tree == set(layers)
    counts = {"nodes": NEW.num_nodes, "leaves": NEW.num_leaves}
    counts["leaves_and_none"] = NEW.num_leaves + 1
    for key, kind in layers.items():
        assert shapes[1][key][0] == counts[kind], key
