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


def decode(node_output, hierarchy, *, padded_size, image_size, output_size, **options):
    """Decode one view, with the fields of DecodeOptions as keywords."""
    view = NodeView(node_output, padded_size, image_size)
    return decode_views([view], hierarchy, DecodeOptions(**options), output_size=output_size)


def path(parent, node):
    nodes = [node]
    while parent[nodes[0]] >= 0:
        nodes.insert(0, int(parent[nodes[0]]))
    return nodes


def reference(values, padded_size, image_size, output_size):
    """Values at full size in the order that defines the result."""
    full = F.interpolate(values, size=padded_size, mode="bilinear", align_corners=False)
    full = full[..., : image_size[0], : image_size[1]]
    return F.interpolate(full, size=output_size, mode="bilinear", align_corners=False)


def as_arguments(sizes):
    return dict(zip(("padded_size", "image_size", "output_size"), sizes[1:], strict=True))


def make_values(hierarchy, size, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn((1, hierarchy.num_nodes, *size), generator=generator, dtype=dtype)


def walk(scores, hierarchy, threshold):
    """Node ids per level of one pixel's walk down; scores: {level: {node: score}}."""
    parent = hierarchy.parent
    tops = [v for v in range(hierarchy.num_nodes) if parent[v] < 0]
    node, labels = max(tops, key=scores[0].get), []
    labels.append(node)
    stopped = False
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


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("variant", DECODE_VARIANTS)
def test_scores_and_labels_equal_the_reference_order(variant, sizes, bands):
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    values = make_values(hierarchy, sizes[0])
    out = decode(NodeOutput(values, "logits"), hierarchy, variant=variant, **as_arguments(sizes))
    full = node_scores(NodeOutput(reference(values, *sizes[1:]), "logits"), hierarchy, variant)
    torch.testing.assert_close(out["sem_seg"], full.leaves()[0], rtol=1e-10, atol=1e-10)
    assert out["sem_seg"].shape == (hierarchy.num_leaves, *sizes[3])
    assert torch.equal(out["hiera_labels"][-1], full.leaves()[0].argmax(0))
    for level in range(hierarchy.num_levels):
        nodes = torch.from_numpy(np.array(hierarchy.level_nodes(level)))
        expected = nodes[full.at_level(level)[0].argmax(0)]
        assert torch.equal(out["hiera_labels_direct"][level], expected)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("variant", DECODE_VARIANTS)
def test_labels_equal_a_loop_over_pixels(tree, variant):
    hierarchy = Hierarchy.from_dict(TREES[tree])
    sizes = ((4, 5), (16, 20), (15, 17), (9, 21))
    values = make_values(hierarchy, sizes[0], seed=1)
    out = decode(NodeOutput(values, "logits"), hierarchy, variant=variant, **as_arguments(sizes))
    assert len(out["hiera_labels"]) == len(out["hiera_labels_direct"]) == hierarchy.num_levels
    leaves = out["sem_seg"].numpy()
    for row, column in np.ndindex(sizes[3]):
        nodes = path(hierarchy.parent, int(leaves[:, row, column].argmax()))
        for level, labels in enumerate(out["hiera_labels"]):
            assert labels[row, column] == nodes[min(level, len(nodes) - 1)]


@pytest.mark.parametrize("variant", DECODE_VARIANTS)
@pytest.mark.parametrize("tree", TREES)
def test_safe_depth_equals_a_walk_of_every_pixel(tree, variant):
    hierarchy = Hierarchy.from_dict(TREES[tree])
    sizes = ((3, 4), (12, 16), (12, 15), (7, 9))
    values = make_values(hierarchy, sizes[0], seed=2)
    full = node_scores(NodeOutput(reference(values, *sizes[1:]), "logits"), hierarchy, variant)
    levels = [
        (hierarchy.level_nodes(level).tolist(), full.at_level(level)[0].numpy())
        for level in range(hierarchy.num_levels)
    ]
    for threshold in (0.0, 0.3, 0.6, 2.0):
        out = decode(
            NodeOutput(values, "logits"),
            hierarchy,
            variant=variant,
            min_confidence=threshold,
            **as_arguments(sizes),
        )
        labels = torch.stack(out["hiera_labels"]).numpy()
        for row, column in np.ndindex(sizes[3]):
            scores = [dict(zip(ids, s[:, row, column], strict=True)) for ids, s in levels]
            assert labels[:, row, column].tolist() == walk(scores, hierarchy, threshold)
        torch.testing.assert_close(out["sem_seg"], full.leaves()[0], rtol=1e-10, atol=1e-10)


def test_safe_depth_gives_inner_nodes_between_its_extremes():
    hierarchy = Hierarchy.from_dict({"vehicle": {"car": ["bus", "taxi"]}, "sky": None})
    z = torch.full((hierarchy.num_nodes, 1, 1), -5.0)
    z[hierarchy["vehicle"]], z[hierarchy["car"]], z[hierarchy["taxi"]] = 5.0, 1.0, -0.5

    def labels(threshold):
        sizes = {"padded_size": (1, 1), "image_size": (1, 1), "output_size": (1, 1)}
        given = NodeOutput(z, "logits")
        out = decode(given, hierarchy, variant="path_sum", min_confidence=threshold, **sizes)
        return [hierarchy.node_names[int(label)] for label in out["hiera_labels"]]

    assert labels(0.1) == ["vehicle", "car", "taxi"]
    assert labels(0.5) == ["vehicle", "car", "car"]
    assert labels(0.9) == ["vehicle", "vehicle", "vehicle"]


def test_output_says_what_is_made():
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    sizes = SIZES["up"]
    given = NodeOutput(make_values(hierarchy, sizes[0]), "logits")
    kwargs = {"variant": "path_sum", **as_arguments(sizes)}
    both = decode(given, hierarchy, **kwargs)
    scores = decode(given, hierarchy, output="scores", **kwargs)
    labels = decode(given, hierarchy, output="labels", direct=False, **kwargs)
    assert list(scores) == ["sem_seg"] and torch.equal(scores["sem_seg"], both["sem_seg"])
    assert list(labels) == ["hiera_labels"]
    for ours, theirs in zip(labels["hiera_labels"], both["hiera_labels"], strict=True):
        assert torch.equal(ours.long(), theirs)
    assert both["hiera_labels"][0].dtype == torch.int64


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
        decode(
            NodeOutput(values, "logits"),
            hierarchy,
            padded_size=size,
            image_size=size,
            output_size=size,
            variant="path_sum",
            output="labels",
        )
    assert max(allocated) <= decode_module._BAND_VALUES_CPU
    assert max(allocated) < 0.2 * hierarchy.num_leaves * size[0] * size[1]


@pytest.mark.parametrize("variant", DECODE_VARIANTS)
@pytest.mark.parametrize("tree", TREES)
def test_the_greedy_path_determines_the_labels_at_every_safe_depth(tree, variant, bands):
    hierarchy = Hierarchy.from_dict(TREES[tree])
    kwargs = {"variant": variant, **as_arguments(SIZES["up"])}
    output = NodeOutput(make_values(hierarchy, SIZES["up"][0], dtype=torch.float32), "logits")
    found = decode(output, hierarchy, greedy_path=True, output="scores", **kwargs)
    leaf, limits = found["hiera_greedy_path"], found["hiera_greedy_path_limits"]
    assert len(limits) == hierarchy.num_levels - 1
    ancestor = torch.from_numpy(np.array(hierarchy.level_ancestor))
    # a limit itself is passed
    thresholds = [0.0, 0.2, 0.5, 0.9, 2.0] + [float(limit[2, 3]) for limit in limits]
    for threshold in thresholds:
        expected = decode(output, hierarchy, min_confidence=threshold, **kwargs)["hiera_labels"]
        labels = ancestor[0][leaf]
        assert torch.equal(labels, expected[0])
        for level, limit in enumerate(limits, start=1):
            labels = torch.where(limit >= threshold, ancestor[level][leaf], labels)
            assert torch.equal(labels, expected[level])


@pytest.mark.parametrize("min_confidence", [None, 0.4])
@pytest.mark.parametrize("variant", DECODE_VARIANTS)
@pytest.mark.parametrize("tree", TREES)
def test_confidence_is_the_score_of_the_labels(tree, variant, min_confidence, bands):
    hierarchy = Hierarchy.from_dict(TREES[tree])
    sizes = SIZES["up"]
    output = NodeOutput(make_values(hierarchy, sizes[0]), "logits")
    kwargs = {"variant": variant, "min_confidence": min_confidence, **as_arguments(sizes)}
    out = decode(output, hierarchy, confidence=True, **kwargs)
    full = node_scores(
        NodeOutput(reference(output.values, *sizes[1:]), "logits"), hierarchy, variant
    )
    assert len(out["hiera_confidence"]) == hierarchy.num_levels
    for level, (labels, scores) in enumerate(
        zip(out["hiera_labels"], out["hiera_confidence"], strict=True)
    ):
        for row, column in ((0, 0), (3, 5), (7, 2)):
            node, at = int(labels[row, column]), level
            while node not in hierarchy.level_nodes(at):  # where the walk has stopped above
                at -= 1
            index = hierarchy.level_nodes(at).tolist().index(node)
            expected = full.at_level(at)[0, index, row, column]
            assert scores[row, column].item() == pytest.approx(expected.item(), abs=1e-9)
    plain = decode(output, hierarchy, **kwargs)
    assert set(out) - set(plain) == {"hiera_confidence"}
    with pytest.raises(ValueError, match="CONFIDENCE.*OUTPUT is 'scores'"):
        DecodeOptions(confidence=True, output="scores")


@pytest.mark.parametrize("channels", [1, 255, 256, 40_000])
def test_among_equal_scores_the_lowest_id_wins(channels):
    scores = torch.zeros(channels, 2, 2)
    scores[channels // 2, 0, 0] = scores[channels - 1, 0, 0] = 1.0
    best, index = best_channel(scores)
    assert best.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert index.tolist() == [[channels // 2, 0], [0, 0]]


def first_of(hierarchy, level):
    """The lowest id at a level."""
    return int(hierarchy.level_nodes(level)[0])


@pytest.mark.parametrize("kind", ["logits", "scores"])
@pytest.mark.parametrize("variant", DECODE_VARIANTS)
@pytest.mark.parametrize("tree", TREES)
def test_nan_at_all_nodes_gives_the_lowest_ids(tree, variant, kind, bands):
    if kind == "scores" and variant not in SCORE_VARIANTS:
        pytest.skip("needs logits")
    hierarchy = Hierarchy.from_dict(TREES[tree])
    sizes = ((7, 5),) * 4
    values = make_values(hierarchy, sizes[0]).abs()
    kwargs = {"variant": variant, "greedy_path": True, **as_arguments(sizes)}
    clean = decode(NodeOutput(values, kind), hierarchy, **kwargs)
    values[..., 2, 3] = torch.nan
    out = decode(NodeOutput(values, kind), hierarchy, **kwargs)
    assert out["hiera_nan_count"] == 1 and "hiera_nan_count" not in clean
    for level in range(hierarchy.num_levels):
        found = out["hiera_labels"][level], out["hiera_labels_direct"][level]
        # of the path of leaf 0; of the level by itself
        expected = hierarchy.level_ancestor[level][0], first_of(hierarchy, level)
        for labels, node, before in zip(
            found, expected, (clean["hiera_labels"], clean["hiera_labels_direct"]), strict=True
        ):
            assert labels[2, 3] == node
            labels[2, 3] = before[level][2, 3]
            assert torch.equal(labels, before[level])  # nothing else has changed
    safe = decode(NodeOutput(values, kind), hierarchy, min_confidence=0.0, **kwargs)
    for labels in safe["hiera_labels"]:  # no threshold is passed: the label stays at the top
        assert labels[2, 3] == first_of(hierarchy, 0)
    node = first_of(hierarchy, 0)
    while len(hierarchy.children(node)):
        node = int(hierarchy.children(node)[0])
    assert out["hiera_greedy_path"][2, 3] == node
    assert all(limit[2, 3] == -torch.inf for limit in out["hiera_greedy_path_limits"])


def test_nan_at_one_node_counts_only_where_it_is_compared():
    """Beside a higher score or not: the channels tie; a walk looks at the children it may take."""
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    values = torch.full((1, hierarchy.num_nodes, 1, 1), 0.1)
    for name in ("vehicle", "vehicle/car"):
        values[0, hierarchy[name]] = 0.9
    values[0, hierarchy["vehicle/car/bus"]] = 0.7
    values[0, hierarchy["vehicle/car/taxi"]] = torch.nan
    kwargs = {"variant": "leaf", "greedy_path": True, "padded_size": (1, 1), "image_size": (1, 1)}
    out = decode(NodeOutput(values, "scores"), hierarchy, output_size=(1, 1), **kwargs)
    assert [int(x) for x in out["hiera_labels_direct"][:2]] == [
        hierarchy["vehicle"],
        hierarchy["vehicle/car"],
    ]
    assert int(out["hiera_labels_direct"][2]) == first_of(hierarchy, 2) == 0
    assert int(out["hiera_labels"][2]) == 0
    assert (
        int(out["hiera_greedy_path"]) == hierarchy["vehicle/car/bus"]
    )  # the lower of two children
    values[0, hierarchy["flat/road"]] = torch.nan  # no child of what the walk stands at
    values[0, hierarchy["vehicle/car/taxi"]] = 0.8
    out = decode(NodeOutput(values, "scores"), hierarchy, output_size=(1, 1), **kwargs)
    assert int(out["hiera_greedy_path"]) == hierarchy["vehicle/car/taxi"]


def test_nan_is_counted_in_every_image_and_said_once(caplog):
    logger._LOG_COUNTER.clear()
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    kwargs = {"variant": "path_sum", **as_arguments(SIZES["up"])}
    values = make_values(hierarchy, SIZES["up"][0])
    values[0, 3, :2, :5] = torch.nan
    with caplog.at_level("WARNING"):
        for _ in range(2):
            out = decode(NodeOutput(values, "logits"), hierarchy, **kwargs)
            assert out["hiera_nan_count"] == 10
    (record,) = caplog.records
    assert "10 of 96 positions" in record.getMessage()


def test_bfloat16_logits_decode_in_float32():
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    sizes = SIZES["up"]
    values = make_values(hierarchy, sizes[0]).bfloat16()
    out = decode(NodeOutput(values, "logits"), hierarchy, variant="path_sum", **as_arguments(sizes))
    exact = decode(
        NodeOutput(values.double(), "logits"), hierarchy, variant="path_sum", **as_arguments(sizes)
    )
    assert out["sem_seg"].dtype == torch.float32
    torch.testing.assert_close(out["sem_seg"].double(), exact["sem_seg"], rtol=1e-5, atol=1e-5)


def test_autocast_and_a_gradient_change_nothing():
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    sizes = SIZES["up"]
    values = make_values(hierarchy, sizes[0], dtype=torch.float32)
    kwargs = {"variant": "level_softmax", **as_arguments(sizes)}
    plain = decode(NodeOutput(values, "logits"), hierarchy, **kwargs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = decode(NodeOutput(values.clone().requires_grad_(), "logits"), hierarchy, **kwargs)
    assert torch.equal(plain["sem_seg"], cast["sem_seg"]) and not cast["sem_seg"].requires_grad


def test_query_scores_decode_as_they_are_and_refuse_softmax():
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    sizes = SIZES["down"]
    given = NodeOutput(make_values(hierarchy, sizes[0]).abs(), "scores")
    out = decode(given, hierarchy, variant="path_sum", **as_arguments(sizes))
    full = node_scores(
        NodeOutput(reference(given.values, *sizes[1:]), "scores"), hierarchy, "path_sum"
    )
    torch.testing.assert_close(out["sem_seg"], full.leaves()[0])
    assert out["sem_seg"].max() > hierarchy.num_levels  # no sigmoid was taken of them
    with pytest.raises(ValueError, match="'marginal'.*'scores'"):
        decode(given, hierarchy, variant="marginal", **as_arguments(sizes))


def test_values_of_the_caller_stay_as_they_were():
    hierarchy = Hierarchy.from_dict(TREES["ragged"])
    values = make_values(hierarchy, (6, 6), dtype=torch.float32)
    before = values.clone()
    sizes = {"padded_size": (6, 6), "image_size": (6, 6), "output_size": (6, 6)}
    for variant in DECODE_VARIANTS:
        decode(NodeOutput(values, "logits"), hierarchy, variant=variant, **sizes)
        assert torch.equal(values, before)
    decode(NodeOutput(values.abs(), "scores"), hierarchy, variant="leaf", **sizes)


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
    with pytest.raises(ValueError, match="own_softmax.*`decoding`"):
        decode_variant("auto", ["own_softmax", "tree_triplet"])


def test_a_variant_that_can_not_be_names_the_key():
    key = "MODEL.HIERA_SEG.TEST.DECODE"
    with pytest.raises(ValueError, match=f"{key}.*'auto'.*tree_triplet.*path_sum.*`decoding`"):
        decode_variant("auto", ["tree_triplet"])
    with pytest.raises(ValueError, match=f"{key} is 'softmax'.*'auto' or one of.*level_softmax"):
        decode_variant("softmax", ["bce"])
    with pytest.raises(ValueError, match=f"{key} is 'marginal'.*'scores'.*'path_sum', 'leaf'"):
        decode_variant("marginal", ["bce"], kind="scores")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "all"}, "'all'.*both"),
        ({"min_confidence": -0.5}, "min_confidence is -0.5"),
        ({"min_confidence": float("nan")}, "min_confidence is nan"),
        ({"variant": "best"}, "'best'.*path_sum"),
        ({"variant": "auto"}, "'auto'.*path_sum"),
        ({"image_size": (9, 8)}, r"\(9, 8\).*\(8, 8\)"),
        ({"output_size": (0, 8)}, r"\(0, 8\).*positive"),
    ],
)
def test_bad_arguments_name_the_value(change, message):
    hierarchy = Hierarchy.from_dict({"a": ["x", "y"]})
    sizes = {"padded_size": (8, 8), "image_size": (8, 8), "output_size": (8, 8)}
    kwargs = {"variant": "path_sum", **sizes, **change}
    with pytest.raises(ValueError, match=message):
        decode(NodeOutput(torch.zeros(1, 3, 2, 2), "logits"), hierarchy, **kwargs)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 4, 2, 2), (3, 2), (3, 0, 2)])
def test_values_that_are_not_one_image_of_the_tree_are_refused(shape):
    hierarchy = Hierarchy.from_dict({"a": ["x", "y"]}, name="small")
    sizes = {"padded_size": (8, 8), "image_size": (8, 8), "output_size": (8, 8)}
    with pytest.raises(ValueError, match="'small' needs"):
        decode(NodeOutput(torch.zeros(shape), "logits"), hierarchy, variant="leaf", **sizes)


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
    output = NodeOutput(values.abs() if kind == "scores" else values, kind)
    expected = decode(output, hierarchy, variant=variant, **as_arguments(sizes))["hiera_labels"]
    families = Mock(wraps=decode_module.decode_by_family)
    monkeypatch.setattr(decode_module, "decode_by_family", families)
    monkeypatch.setattr(label_maps, "_MIN_SHARE", 0)
    options = {"variant": variant, "output": "labels", "direct": False}
    found = decode(output, hierarchy, **options, **as_arguments(sizes))
    assert list(found) == ["hiera_labels"] and families.called
    for ours, theirs in zip(found["hiera_labels"], expected, strict=True):
        assert ours.dtype == torch.uint8 and torch.equal(ours.long(), theirs)
    families.reset_mock()
    output.values[0, 0, 0, 0] = torch.nan  # defined by the scores of all leaves
    assert "hiera_nan_count" in decode(output, hierarchy, **options, **as_arguments(sizes))
    assert not families.called
