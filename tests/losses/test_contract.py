"""What holds for every loss on node logits: checks, void, precision, strides, normalizers."""

import math

import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import (
    HIERA_LOSSES,
    level_ce_loss,
    marginal_ce_loss,
    tree_min_loss,
    valid_pixels,
)
from hiera_seg.losses.fused import node_terms, tiles
from tests.helpers import value_and_gradient


def focal_tree_min_loss(*arguments, **options):
    return tree_min_loss(*arguments, gamma=2.0, **options)


# All losses that average over pixels
REGISTERED = {loss.function for _, loss in HIERA_LOSSES if loss.normalizer is not None}
LOSSES = [focal_tree_min_loss, *sorted(REGISTERED, key=lambda function: function.__name__)]
pytestmark = pytest.mark.parametrize("function", LOSSES, ids=lambda f: f.__name__)


def test_gradcheck(oracle, function):
    for seed in (0, 4):
        hierarchy, logits, labels = oracle.random_case(seed, height=2, width=2)
        assert torch.autograd.gradcheck(
            lambda z, h=hierarchy, y=labels: function(z, y, h), logits.requires_grad_()
        )


def test_differentiating_twice_is_an_error(oracle, function):
    hierarchy, logits, labels = oracle.random_case(0)
    logits.requires_grad_()
    value = function(logits, labels, hierarchy)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(value, logits, create_graph=True)


def test_tiles_do_not_change_the_result(oracle, function, monkeypatch):
    hierarchy, logits, labels = oracle.random_case(2, height=7, width=9)
    whole = value_and_gradient(function, logits, labels, hierarchy)
    monkeypatch.setattr(tiles, "tile_pixels", lambda num_nodes: 5)
    torch.testing.assert_close(value_and_gradient(function, logits, labels, hierarchy), whole)


def test_tiles_on_a_gpu_compute_the_same(oracle, function, monkeypatch):
    """There they do not look at values, and always are exact."""
    for seed in range(6):
        hierarchy, logits, labels = oracle.random_case(seed, height=7, width=9)
        for scale in (1.0, 60.0):
            monkeypatch.undo()
            expected = value_and_gradient(function, scale * logits, labels, hierarchy)
            for module in (tiles, node_terms):
                monkeypatch.setattr(module, "is_on_cpu", lambda tensor: False)
            found = value_and_gradient(function, scale * logits, labels, hierarchy)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", ["channels_last", "cropped", "transposed", "expanded"])
def test_any_memory_layout(oracle, function, layout):
    hierarchy, logits, labels = oracle.random_case(6, height=6, width=6)
    expected = value_and_gradient(function, logits, labels, hierarchy)
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last)
        labels = labels.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "cropped":
        logits = torch.nn.functional.pad(logits, (2, 1, 0, 3))[:, :, :6, 2:8]
    elif layout == "transposed":
        logits = logits.transpose(2, 3).contiguous().transpose(2, 3)
    else:
        logits, labels = logits[:1].expand(2, -1, -1, -1), labels[:1].expand(2, -1, -1)
        expected = value_and_gradient(function, logits[:1], labels[:1], hierarchy)
    leaf = logits.detach().requires_grad_()  # not cloned, which would change its layout
    value = function(leaf, labels, hierarchy)
    value.backward()
    torch.testing.assert_close(value.detach(), expected[0])
    gradient = leaf.grad if layout != "expanded" else leaf.grad.sum(0, keepdim=True)
    torch.testing.assert_close(gradient, expected[1])


def test_channels_last_stays_channels_last(cityscapes, function):
    logits = torch.randn(2, 26, 4, 5).contiguous(memory_format=torch.channels_last)
    logits.requires_grad_()
    value = function(logits * 1.0, torch.randint(0, 19, (2, 4, 5)), cityscapes)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reduces_in_float32(cityscapes, function, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 26, 8, 9, generator=generator)).to(dtype)
    labels = torch.randint(0, 26, (2, 8, 9), generator=generator)
    labels[0, :2] = 255
    value, gradient = value_and_gradient(function, logits, labels, cityscapes)
    expected = value_and_gradient(function, logits.float(), labels, cityscapes)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected[0])
    assert gradient.dtype == dtype
    accuracy = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.float(), expected[1], rtol=2 * accuracy, atol=1e-6)


def test_float16_gradients_survive_the_number_of_pixels(cityscapes, function):
    """1 / pixels underflows in float16; scaled by a gradient scaler it must still be exact."""
    count, scale = 2.0e7, 65536.0
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 26, 4, 4, generator=generator).half()
    labels = torch.randint(0, 19, (1, 4, 4), generator=generator)

    def scaled(z):
        return function(z, labels, cityscapes, valid_count=count) * scale

    value, gradient = value_and_gradient(scaled, logits)
    expected = value_and_gradient(scaled, logits.float())
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradient.float(), expected[1], rtol=2e-3, atol=1.2e-7)


@pytest.mark.parametrize("weights", ["none", "node_weights", "level_weights"])
def test_float16_gradients_are_finite_however_much_a_pixel_weighs(function, weights):
    """A level that one pixel of many reaches weighs it by their number, and weights may be large:
    more than float16 holds before the sum is divided by the number of pixels, and less after."""
    hierarchy = Hierarchy.from_paths(["a/b", "a/c", "d"])
    options = {"node_weights": torch.tensor([1e6, 1.0, 1.0, 1.0])}
    if weights == "level_weights":
        if function not in (level_ce_loss, marginal_ce_loss):
            pytest.skip("takes no weights of levels")
        options = {"level_weights": [1.0, 3e5]}
    elif weights == "none":
        options = {}
    labels = torch.full((1, 400, 400), hierarchy["a"])
    labels[0, :1, : 1 if weights == "none" else 400] = hierarchy["b"]
    logits = torch.zeros(1, 4, 400, 400, dtype=torch.float16)
    value, gradient = value_and_gradient(function, logits, labels, hierarchy, **options)
    expected = value_and_gradient(function, logits.float(), labels, hierarchy, **options)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradient.half(), expected[1].half(), rtol=2e-3, atol=1.2e-7)


def test_under_autocast(cityscapes, function):
    logits = torch.randn(1, 26, 4, 5)
    labels = torch.randint(0, 19, (1, 4, 5))
    expected = value_and_gradient(function, logits, labels, cityscapes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradient(function, logits, labels, cityscapes)
        half = function(logits.bfloat16(), labels, cityscapes)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_far_out(cityscapes, function, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 2, (2, 26, 5, 5), generator=generator).mul(200).sub(100).to(dtype)
    labels = torch.randint(0, 26, (2, 5, 5), generator=generator)
    value, gradient = value_and_gradient(function, logits, labels, cityscapes)
    assert torch.isfinite(value) and value > 0
    assert torch.isfinite(gradient).all()
    double = value_and_gradient(function, logits.double(), labels, cityscapes)
    torch.testing.assert_close(value, double[0].float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), double[1], rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("valid_count", [None, 0.0, torch.tensor(0.0), 6.5], ids=str)
def test_all_void_is_zero_with_a_gradient_path(cityscapes, function, valid_count):
    logits = torch.randn(2, 26, 3, 4)
    labels = torch.full((2, 3, 4), 255)
    value, gradient = value_and_gradient(
        function, logits, labels, cityscapes, valid_count=valid_count
    )
    assert value == 0
    assert gradient.eq(0).all()


def test_void_pixels_change_nothing(oracle, function):
    hierarchy, logits, labels = oracle.random_case(7, void=0.4)
    other = torch.where((labels == oracle.VOID)[:, None], 50.0, logits)
    value, gradient = value_and_gradient(function, logits, labels, hierarchy)
    assert value == function(other, labels, hierarchy)
    assert gradient.permute(0, 2, 3, 1)[labels == oracle.VOID].eq(0).all()


@pytest.mark.parametrize("ignore_label", [-1, 26, 65535])
def test_any_ignore_label(cityscapes, function, ignore_label):
    logits = torch.randn(1, 26, 4, 5)
    labels = torch.randint(0, 26, (1, 4, 5))
    labels[0, 1] = 255
    expected = function(logits, labels, cityscapes)
    labels[0, 1] = ignore_label
    found = function(logits, labels, cityscapes, ignore_label=ignore_label)
    torch.testing.assert_close(found, expected)


def test_halves_with_the_shared_count_average_to_the_whole(oracle, function):
    hierarchy, logits, labels = oracle.random_case(8, batch=2, void=0.5)
    labels[0, 0] = oracle.VOID  # so that the halves count differently
    value, gradient = value_and_gradient(function, logits, labels, hierarchy)
    shared = valid_pixels(labels, hierarchy, oracle.VOID) / 2
    part = shared[1:] if function in (level_ce_loss, marginal_ce_loss) else shared[0]
    halves = [
        value_and_gradient(
            function, logits[i : i + 1], labels[i : i + 1], hierarchy, valid_count=part
        )
        for i in range(2)
    ]
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.cat([halves[0][1], halves[1][1]]) / 2, gradient, rtol=1e-6, atol=1e-9
    )


def test_inputs_are_not_changed(oracle, function):
    hierarchy, logits, labels = oracle.random_case(1)
    before = logits.clone(), labels.clone()
    function(logits.requires_grad_(), labels, hierarchy).backward()
    assert torch.equal(logits.detach(), before[0])
    assert torch.equal(labels, before[1])


def test_without_gradient(cityscapes, function):
    logits, labels = torch.randn(1, 26, 4, 5), torch.randint(0, 19, (1, 4, 5))
    expected = function(logits.clone().requires_grad_(), labels, cityscapes)
    with torch.inference_mode():
        found = function(logits, labels, cityscapes)
    assert not found.requires_grad
    assert found == expected.detach()


def test_labels_outside_the_tree(cityscapes, function):
    logits = torch.zeros(1, 26, 2, 3)
    for wrong in (26, -1, 300):
        labels = torch.zeros(1, 2, 3, dtype=torch.long)
        labels[0, 1, 1] = wrong
        with pytest.raises(ValueError, match=f"labels hold {wrong}: .*'cityscapes'.*255"):
            function(logits, labels, cityscapes)
    with pytest.raises(ValueError, match="ignore_label 3 is node .*'cityscapes'"):
        function(logits, torch.zeros(1, 2, 3, dtype=torch.long), cityscapes, ignore_label=3)


def test_shapes_and_types(cityscapes, function):
    logits, labels = torch.zeros(2, 26, 4, 5), torch.zeros(2, 4, 5, dtype=torch.long)
    wrong = {
        "19 channels.*'cityscapes'.*needs 26": (logits[:, :19], labels),
        r"logits must be .*\(26, 4, 5\)": (logits[0], labels),
        "logits must be .*torch.int64": (logits.long(), labels),
        "labels must be .*torch.float32": (logits, labels.float()),
        "labels must be .*torch.bool": (logits, labels.bool()),
        r"labels must be .*\(2, 1, 4, 5\)": (logits, labels[:, None]),
        r"labels have shape \(2, 8, 10\)": (logits, torch.zeros(2, 8, 10, dtype=torch.long)),
        "labels must be .*a list": (logits, labels.tolist()),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            function(*arguments, cityscapes)
    with pytest.raises(ValueError, match="valid_count"):
        function(logits, labels, cityscapes, valid_count=-1.0)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        *((-1.0, "-1.0"), (math.inf, "inf"), (math.nan, "nan"), ([3.0], r"\[3\.0\]"), ("3", "'3'")),
        *(
            (torch.tensor(-1), "-1"),
            (torch.tensor(math.inf), "inf"),
            (torch.tensor(math.nan), "nan"),
        ),
    ],
)
def test_a_count_that_is_no_number_of_pixels_is_named(cityscapes, function, wrong, found):
    arguments = torch.zeros(1, 26, 2, 3), torch.zeros(1, 2, 3, dtype=torch.long), cityscapes
    with pytest.raises(ValueError, match=f"valid_count must be .*{found}$"):
        function(*arguments, valid_count=wrong)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.5])
def test_a_node_weight_that_is_no_weight_is_named(cityscapes, function, wrong):
    weights = torch.ones(26)
    weights[7] = wrong
    arguments = torch.zeros(1, 26, 2, 3), torch.zeros(1, 2, 3, dtype=torch.long), cityscapes
    for given in (weights, weights.tolist()):
        with pytest.raises(ValueError, match=f"node_weights must be .*{wrong}$"):
            function(*arguments, node_weights=given)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("device", ["cpu", "as_on_a_gpu"])
def test_logits_of_void_that_are_not_finite_change_nothing(
    oracle, function, bad, dtype, weighted, device, monkeypatch
):
    hierarchy, logits, labels = oracle.random_case(7, void=0.4)
    logits = logits.to(dtype)
    if device != "cpu":  # the way of tiles on a GPU, which does not look at what they hold
        for module in (tiles, node_terms):
            monkeypatch.setattr(module, "is_on_cpu", lambda tensor: False)
    options = {"node_weights": torch.rand(hierarchy.num_nodes) + 0.5} if weighted else {}
    void = labels == oracle.VOID
    expected = value_and_gradient(function, logits, labels, hierarchy, **options)
    for node in range(hierarchy.num_nodes):
        other = logits.clone()
        other[:, node][void] = bad
        value, gradient = value_and_gradient(function, other, labels, hierarchy, **options)
        assert torch.equal(value, expected[0])
        assert torch.equal(gradient, expected[1])
        assert gradient.permute(0, 2, 3, 1)[void].eq(0).all()


def test_a_logit_that_is_nan_where_a_label_is_known_is_not_hidden(oracle, function):
    hierarchy, logits, labels = oracle.random_case(7, void=0.4)
    known = (labels != oracle.VOID).nonzero()[0].tolist()
    logits[known[0], 0, known[1], known[2]] = math.nan  # a leaf, which all losses read
    assert function(logits, labels, hierarchy).isnan()


def test_one_node_and_ragged_top(function):
    for tree in (["a"], {"a": None, "b": {"c": ["d", "e"]}}):
        hierarchy = Hierarchy.from_dict(tree)
        logits = torch.randn(1, hierarchy.num_nodes, 2, hierarchy.num_nodes)
        labels = torch.arange(hierarchy.num_nodes).expand(1, 2, -1)
        found = value_and_gradient(function, logits, labels, hierarchy)
        assert all(x.isfinite().all() for x in found)


@pytest.mark.parametrize("size", [(0, 4, 5), (2, 0, 9), (2, 9, 0)])
def test_empty_batch_is_zero(cityscapes, function, size):
    logits, labels = torch.zeros(size[0], 26, *size[1:]), torch.zeros(size, dtype=torch.long)
    assert value_and_gradient(function, logits, labels, cityscapes)[0] == 0
