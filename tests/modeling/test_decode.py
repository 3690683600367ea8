"""Decoding against a float64 loop over pixels, and bands against the order that defines them."""

import importlib
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.utils import logger

from hiera_seg import Hierarchy
from hiera_seg.layers.scores import DECODE_VARIANTS, SCORE_VARIANTS, NodeOutput, node_scores
from hiera_seg.losses import HIERA_LOSSES, LossTerm
from hiera_seg.modeling import DecodeOptions, NodeView, label_maps
from hiera_seg.modeling.decode import decode as decode_views
from hiera_seg.modeling.decode import decode_variant
from hiera_seg.modeling.label_maps import VARIANTS
from hiera_seg.modeling.paths import best_channel
from tests.random_trees import random_tree

# The package exports the function of the same name, so that an import would give that.
decode_module = importlib.import_module("hiera_seg.modeling.decode")


TREES = {
    "ragged": {
        "sky": None,
        "flat": ["road", "path"],
        "vehicle": {"van": None, "car": ["bus", "taxi"]},
    },
    "one level": ["a", "b", "c"],
    "one node": ["a"],
    "chain": {"a": {"b": ["c"]}, "d": None},
    **{f"random {seed}": random_tree(np.random.default_rng(seed)) for seed in (1, 3)},
}
# logits' grid, padded input, image, output
SIZES = {
    "up": ((8, 12), (32, 48), (29, 37), (61, 83)),
    "down": ((8, 12), (32, 48), (31, 47), (13, 11)),
    "rows up, columns down": ((5, 9), (20, 36), (17, 33), (40, 7)),
    "input size kept": ((8, 8), (32, 32), (32, 32), (32, 32)),
    "no resize": ((7, 5), (7, 5), (7, 5), (7, 5)),
    "one pixel": ((1, 1), (4, 4), (3, 1), (1, 1)),
    "logits larger than the input": ((40, 40), (16, 16), (15, 9), (20, 10)),
}


RAGGED = Hierarchy.from_dict(TREES["ragged"])


def decode(values, hierarchy=RAGGED, sizes=((1, 1),) * 4, *, kind="logits", **options):
    """Decode values to the sizes of padded input, image and output; options of DecodeOptions."""
    view = NodeView(NodeOutput(values, kind), *sizes[1:3])
    options = DecodeOptions(**{"variant": "path_sum", **options})
    return decode_views([view], hierarchy, options, output_size=sizes[3])


def scores_at_full_size(values, hierarchy, sizes, variant, kind="logits"):
    """Scores in the order that defines the result."""
    padded, image, output = sizes[1:]
    full = F.interpolate(values, size=padded, mode="bilinear", align_corners=False)
    full = full[..., : image[0], : image[1]]
    full = F.interpolate(full, size=output, mode="bilinear", align_corners=False)
    return node_scores(NodeOutput(full, kind), hierarchy, variant)


def make_values(hierarchy, size, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn((1, hierarchy.num_nodes, *size), generator=generator, dtype=dtype)


def walk(scores, hierarchy, threshold):
    """Node ids per level of one pixel's walk down; scores: {level: {node: score}}."""
    parent = hierarchy.parent
    tops = [v for v in range(hierarchy.num_nodes) if parent[v] < 0]
    node = max(tops, key=scores[0].get)
    labels, stopped = [node], False
    for level in range(1, hierarchy.num_levels):
        children = [v for v in range(hierarchy.num_nodes) if parent[v] == node]
        if children and not stopped:
            child = max(children, key=scores[level].get)
            stopped = scores[level][child] < threshold
            node = node if stopped else child
        labels.append(node)
    return labels


@pytest.fixture(params=["one band", "one row a band"])
def bands(request, monkeypatch):
    if request.param == "one row a band":
        monkeypatch.setattr(decode_module, "_BAND_VALUES_CPU", 1)
        monkeypatch.setattr(label_maps, "_BLOCK_VALUES", 1)
        monkeypatch.setattr(label_maps, "_MIN_ROWS", 2)


@pytest.fixture(params=TREES)
def tree(request):
    return Hierarchy.from_dict(TREES[request.param])


@pytest.fixture(params=DECODE_VARIANTS)
def variant(request):
    return request.param


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_scores_and_labels_equal_the_reference_order(variant, sizes, bands):
    values = make_values(RAGGED, sizes[0])
    out = decode(values, RAGGED, sizes, variant=variant)
    full = scores_at_full_size(values, RAGGED, sizes, variant)
    torch.testing.assert_close(out["sem_seg"], full.leaves()[0], rtol=1e-10, atol=1e-10)
    assert out["sem_seg"].shape == (RAGGED.num_leaves, *sizes[3])
    assert torch.equal(out["hiera_labels"][-1], full.leaves()[0].argmax(0))
    for level, labels in enumerate(out["hiera_labels_direct"]):
        nodes = torch.from_numpy(np.array(RAGGED.level_nodes(level)))
        assert torch.equal(labels, nodes[full.at_level(level)[0].argmax(0)])


def test_labels_equal_a_loop_over_pixels(tree, variant):
    sizes = ((4, 5), (16, 20), (15, 17), (9, 21))
    out = decode(make_values(tree, sizes[0], seed=1), tree, sizes, variant=variant)
    assert len(out["hiera_labels"]) == len(out["hiera_labels_direct"]) == tree.num_levels
    best = out["sem_seg"].argmax(0)
    for row, column in np.ndindex(sizes[3]):
        nodes = [int(best[row, column])]
        while (parent := int(tree.parent[nodes[0]])) >= 0:
            nodes.insert(0, parent)
        for level, labels in enumerate(out["hiera_labels"]):
            assert labels[row, column] == nodes[min(level, len(nodes) - 1)]


def test_safe_depth_equals_a_walk_of_every_pixel(tree, variant):
    sizes = ((3, 4), (12, 16), (12, 15), (7, 9))
    values = make_values(tree, sizes[0], seed=2)
    full = scores_at_full_size(values, tree, sizes, variant)
    levels = [
        (tree.level_nodes(level).tolist(), full.at_level(level)[0].numpy())
        for level in range(tree.num_levels)
    ]
    for threshold in (0.0, 0.3, 0.6, 2.0):
        out = decode(values, tree, sizes, variant=variant, min_confidence=threshold)
        labels = torch.stack(out["hiera_labels"]).numpy()
        for row, column in np.ndindex(sizes[3]):
            scores = [dict(zip(ids, s[:, row, column], strict=True)) for ids, s in levels]
            assert labels[:, row, column].tolist() == walk(scores, tree, threshold)
        torch.testing.assert_close(out["sem_seg"], full.leaves()[0], rtol=1e-10, atol=1e-10)


def test_labels_alone_never_hold_leaf_scores_at_full_size():
    hierarchy = Hierarchy.from_dict({f"group{i}": [f"a{i}", f"b{i}"] for i in range(20)})
    size = (400, 500)
    allocated = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                allocated.append(result.numel())
            return result

    values = make_values(hierarchy, (50, 60), dtype=torch.float32)
    with Watch():
        decode(values, hierarchy, (None, size, size, size), output="labels")
    assert max(allocated) <= decode_module._BAND_VALUES_CPU
    assert max(allocated) < 0.2 * hierarchy.num_leaves * size[0] * size[1]


def test_the_greedy_path_determines_the_labels_at_every_safe_depth(tree, variant, bands):
    sizes = SIZES["up"]
    values = make_values(tree, sizes[0], dtype=torch.float32)
    found = decode(values, tree, sizes, variant=variant, greedy_path=True, output="scores")
    leaf, limits = found["hiera_greedy_path"], found["hiera_greedy_path_limits"]
    assert len(limits) == tree.num_levels - 1
    ancestor = torch.from_numpy(np.array(tree.level_ancestor))
    # a limit itself is passed
    for threshold in [0.0, 0.2, 0.5, 0.9, 2.0] + [float(limit[2, 3]) for limit in limits]:
        out = decode(values, tree, sizes, variant=variant, min_confidence=threshold)
        labels = ancestor[0][leaf]
        assert torch.equal(labels, out["hiera_labels"][0])
        for level, limit in enumerate(limits, start=1):
            labels = torch.where(limit >= threshold, ancestor[level][leaf], labels)
            assert torch.equal(labels, out["hiera_labels"][level])


@pytest.mark.parametrize("min_confidence", [None, 0.4])
def test_confidence_is_the_score_of_the_labels(tree, variant, min_confidence, bands):
    sizes = SIZES["up"]
    values = make_values(tree, sizes[0])
    options = {"variant": variant, "min_confidence": min_confidence}
    out = decode(values, tree, sizes, confidence=True, **options)
    full = scores_at_full_size(values, tree, sizes, variant)
    assert len(out["hiera_confidence"]) == tree.num_levels
    for level, scores in enumerate(out["hiera_confidence"]):
        for row, column in ((0, 0), (3, 5), (7, 2)):
            node, at = int(out["hiera_labels"][level][row, column]), level
            while node not in tree.level_nodes(at):  # where the walk has stopped above
                at -= 1
            index = tree.level_nodes(at).tolist().index(node)
            expected = full.at_level(at)[0, index, row, column]
            assert scores[row, column].item() == pytest.approx(expected.item(), abs=1e-9)
    assert set(out) - set(decode(values, tree, sizes, **options)) == {"hiera_confidence"}


@pytest.mark.parametrize("channels", [1, 255, 256, 40_000])
def test_among_equal_scores_the_lowest_id_wins(channels):
    scores = torch.zeros(channels, 2, 2)
    scores[channels // 2, 0, 0] = scores[channels - 1, 0, 0] = 1.0
    best, index = best_channel(scores)
    assert best.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert index.tolist() == [[channels // 2, 0], [0, 0]]


@pytest.mark.parametrize("kind", ["logits", "scores"])
def test_nan_at_all_nodes_gives_the_lowest_ids(tree, variant, kind, bands):
    if kind == "scores" and variant not in SCORE_VARIANTS:
        pytest.skip("needs logits")
    sizes = ((7, 5),) * 4
    values = make_values(tree, sizes[0]).abs()
    options = {"kind": kind, "variant": variant, "greedy_path": True}
    clean = decode(values, tree, sizes, **options)
    values[..., 2, 3] = torch.nan
    out = decode(values, tree, sizes, **options)
    assert out["hiera_nan_count"] == 1 and "hiera_nan_count" not in clean
    firsts = [int(tree.level_nodes(level)[0]) for level in range(tree.num_levels)]
    of_leaf_0 = [int(tree.level_ancestor[level][0]) for level in range(tree.num_levels)]
    for key, expected in (("hiera_labels", of_leaf_0), ("hiera_labels_direct", firsts)):
        for labels, before, node in zip(out[key], clean[key], expected, strict=True):
            assert labels[2, 3] == node
            labels[2, 3] = before[2, 3]
            assert torch.equal(labels, before)  # nothing else has changed
    safe = decode(values, tree, sizes, min_confidence=0.0, **options)
    for labels in safe["hiera_labels"]:  # no threshold is passed: the label stays at the top
        assert labels[2, 3] == firsts[0]
    node = firsts[0]
    while len(tree.children(node)):
        node = int(tree.children(node)[0])
    assert out["hiera_greedy_path"][2, 3] == node
    assert all(limit[2, 3] == -torch.inf for limit in out["hiera_greedy_path_limits"])


def test_nan_at_one_node_counts_only_where_it_is_compared():
    """Beside a higher score or not: the channels tie; a walk looks at the children it may take."""
    vehicle, car, bus, taxi = (RAGGED[name] for name in ("vehicle", "car", "bus", "taxi"))
    values = torch.full((1, RAGGED.num_nodes, 1, 1), 0.1)
    values[0, [vehicle, car]], values[0, bus], values[0, taxi] = 0.9, 0.7, torch.nan
    options = {"kind": "scores", "variant": "leaf", "greedy_path": True}
    out = decode(values, **options)
    assert [int(x) for x in out["hiera_labels_direct"]] == [vehicle, car, 0]
    assert int(out["hiera_labels"][2]) == 0
    assert int(out["hiera_greedy_path"]) == bus  # the lower of two children
    values[0, RAGGED["flat/road"]] = torch.nan  # no child of what the walk stands at
    values[0, taxi] = 0.8
    assert int(decode(values, **options)["hiera_greedy_path"]) == taxi


def test_nan_is_counted_in_every_image_and_said_once(caplog):
    logger._LOG_COUNTER.clear()
    values = make_values(RAGGED, SIZES["up"][0])
    values[0, 3, :2, :5] = torch.nan
    with caplog.at_level("WARNING"):
        for _ in range(2):
            assert decode(values, RAGGED, SIZES["up"])["hiera_nan_count"] == 10
    (record,) = caplog.records
    assert "10 of 96 positions" in record.getMessage()


def test_bfloat16_is_decoded_in_float32_and_autocast_changes_nothing():
    values = make_values(RAGGED, SIZES["up"][0]).bfloat16()
    options = {"sizes": SIZES["up"], "variant": "level_softmax"}
    found = decode(values, **options)["sem_seg"]
    exact = decode(values.double(), **options)["sem_seg"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = decode(values.clone().requires_grad_(), **options)["sem_seg"]
    assert torch.equal(found, cast) and not cast.requires_grad


def test_query_scores_decode_as_they_are_and_refuse_softmax():
    sizes = SIZES["down"]
    values = make_values(RAGGED, sizes[0]).abs()
    found = decode(values, RAGGED, sizes, kind="scores")["sem_seg"]
    full = scores_at_full_size(values, RAGGED, sizes, "path_sum", "scores")
    torch.testing.assert_close(found, full.leaves()[0])
    assert found.max() > RAGGED.num_levels  # no sigmoid was taken of them
    with pytest.raises(ValueError, match="'marginal'.*'scores'"):
        decode(values, RAGGED, sizes, kind="scores", variant="marginal")


@pytest.mark.parametrize("kind", ["logits", "scores"])
def test_values_of_the_caller_stay_as_they_were(kind):
    values = make_values(RAGGED, (6, 6), dtype=torch.float32).abs()
    before = values.clone()
    for variant in DECODE_VARIANTS if kind == "logits" else SCORE_VARIANTS:
        decode(values, RAGGED, ((6, 6),) * 4, kind=kind, variant=variant)
        assert torch.equal(values, before)


@pytest.mark.parametrize(
    ("losses", "variant"),
    [
        (["marginal_ce"], "marginal"),
        (["level_ce"], "level_softmax"),
        (["level_ce", "marginal_ce", "tree_triplet"], "level_softmax"),
        (["bce"], "path_sum"),
        (["tree_min", "level_ce"], "path_sum"),
        (["focal_tree_min", "tree_triplet"], "path_sum"),
    ],
)
def test_auto_follows_the_losses(losses, variant):
    assert decode_variant("auto", losses) == variant
    assert decode_variant("auto", losses, kind="scores") == "path_sum"
    assert decode_variant("joint_softmax", losses) == "joint_softmax"


def test_auto_follows_a_loss_of_ones_own(monkeypatch):
    monkeypatch.setattr(HIERA_LOSSES, "_obj_map", dict(HIERA_LOSSES._obj_map))

    class Own(LossTerm):
        decoding = "joint_softmax"

    HIERA_LOSSES.register(Own, name="own_softmax")
    assert decode_variant("auto", ["own_softmax", "tree_triplet"]) == "joint_softmax"
    del Own.decoding
    with pytest.raises(ValueError, match="TEST.DECODE.*'auto'.*own_softmax.*path_sum.*`decoding`"):
        decode_variant("auto", ["own_softmax", "tree_triplet"])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("softmax", "logits", "level_softmax.*'auto'"), ("marginal", "scores", "'path_sum', 'leaf'")],
)
def test_a_variant_that_can_not_be_names_the_key(name, kind, message):
    with pytest.raises(ValueError, match=f"MODEL.HIERA_SEG.TEST.DECODE is '{name}'.*{message}"):
        decode_variant(name, ["bce"], kind=kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "all"}, "'all'.*both"),
        ({"min_confidence": -0.5}, "min_confidence is -0.5"),
        ({"min_confidence": float("nan")}, "min_confidence is nan"),
        ({"confidence": True, "output": "scores"}, "CONFIDENCE.*OUTPUT is 'scores'"),
        ({"min_confidence": 0.5, "output": "scores"}, "MIN_CONFIDENCE.*OUTPUT is 'scores'"),
        ({"variant": "best"}, "'best'.*path_sum"),
        ({"variant": "auto"}, "'auto'.*path_sum"),
        ({"sizes": (None, (8, 8), (9, 8), (8, 8))}, r"\(9, 8\).*\(8, 8\)"),
        ({"sizes": (None, (8, 8), (8, 8), (0, 8))}, r"\(0, 8\)"),
        *(
            ({"values": torch.zeros(shape)}, "'' needs")
            for shape in [(2, 9, 2, 2), (1, 8, 2, 2), (9, 2), (9, 0, 2)]
        ),
    ],
)
def test_bad_arguments_name_the_value(change, message):
    with pytest.raises(ValueError, match=message):
        decode(**{"values": torch.zeros(1, RAGGED.num_nodes, 2, 2), **change})


FAMILIES = {
    "flat": {"ground": ["road", "kerb", "path"], "rail": None},
    "vehicle": {"four": {"big": ["truck", "bus"], "car": None}, "two": ["cycle", "moped"]},
    "sky": None,
    "person": ["adult", "child"],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    "variant, kind", [*((v, "logits") for v in VARIANTS), ("path_sum", "scores")]
)
def test_labels_alone_are_found_by_family(variant, kind, sizes, bands, monkeypatch):
    hierarchy = Hierarchy.from_dict(FAMILIES)
    order = np.random.default_rng(0).permutation(hierarchy.num_leaves)
    hierarchy = hierarchy.with_leaf_order([hierarchy.paths[i] for i in order])
    values = make_values(hierarchy, sizes[0])
    values = values.abs() if kind == "scores" else values
    options = {"kind": kind, "variant": variant}
    expected = decode(values, hierarchy, sizes, **options)["hiera_labels"]
    families = Mock(wraps=decode_module.decode_by_family)
    monkeypatch.setattr(decode_module, "decode_by_family", families)
    monkeypatch.setattr(label_maps, "_MIN_SHARE", 0)
    options |= {"output": "labels", "direct": False}
    found = decode(values, hierarchy, sizes, **options)
    assert list(found) == ["hiera_labels"] and families.called
    for ours, theirs in zip(found["hiera_labels"], expected, strict=True):
        assert ours.dtype == torch.uint8 and torch.equal(ours.long(), theirs)
    families.reset_mock()
    values[0, 0, 0, 0] = torch.nan  # defined by the scores of all leaves
    assert "hiera_nan_count" in decode(values, hierarchy, sizes, **options)
    assert not families.called
