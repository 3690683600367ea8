"""The GPU kernel's arithmetic, run on a CPU by Triton's interpreter.

The interpreter is chosen when Triton is imported, so the comparison runs in a process of its own.
"""

import importlib.util
import math
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import bce_loss, tree_min_loss
from hiera_seg.losses.fused import kernel
from hiera_seg.losses.queries.classes import NodeSigmoid
from tests.helpers import run_python

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
TREES = {
    "cityscapes": Hierarchy.load("cityscapes"),
    "ragged": Hierarchy.from_paths(["a/b/c/d", "a/b/c/e", "a/f", "g", "h/i", "h/j/k"]),
    "shuffled": Hierarchy.load("camvid").with_leaf_order(
        sorted(Hierarchy.load("camvid").leaf_names)
    ),
    "one": Hierarchy.from_paths(["only"]),
}
CASES = [  # tree, loss, gamma, type, layout
    ("cityscapes", tree_min_loss, 2.0, torch.float32, ""),
    ("cityscapes", tree_min_loss, 2.0, torch.float32, "channels_last"),
    ("cityscapes", tree_min_loss, 2.0, torch.bfloat16, ""),
    ("cityscapes", bce_loss, 0.0, torch.float32, ""),
    ("ragged", tree_min_loss, 0.0, torch.float32, ""),
    ("ragged", tree_min_loss, 1.5, torch.float32, ""),
    ("shuffled", tree_min_loss, 2.0, torch.float32, ""),
    ("one", tree_min_loss, 2.0, torch.float32, ""),
    ("ragged", tree_min_loss, 2.0, torch.float32, "queries"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "one_of_a_batch"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "permuted"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "column"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "column_of_channels_last"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "column_on_its_side"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "transposed"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "cropped"),
    ("ragged", tree_min_loss, 2.0, torch.float32, "expanded"),
]
SIZES = {"queries": (1, 1, 35), "one_of_a_batch": (1, 5, 7), "permuted": (1, 5, 7)}


def batch(tree, dtype, layout):
    generator = torch.Generator().manual_seed(tree.num_nodes)
    # More pixels than a program takes, or more than one image. In bfloat16 no two nodes of a pixel
    # tie, for ties are where the kernel differs.
    size = (1, 9, 35) if tree.name == "cityscapes" else SIZES.get(layout, (2, 5, 7))
    if layout.startswith("column"):
        size = (1, 35, 1)
    order = torch.rand(size[0], tree.num_nodes, *size[1:], generator=generator).argsort(1)
    logits = (order - tree.num_nodes / 2) / 4
    if dtype == torch.float32:
        logits = logits + 0.1 * torch.randn(logits.shape, generator=generator)
    labels = torch.randint(0, tree.num_nodes, size, generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return lay_out(logits.to(dtype), layout), labels


def lay_out(logits, layout):
    """The same values, laid out as tensors come along."""
    channels_last = {"memory_format": torch.channels_last}
    if layout in ("channels_last", "column_of_channels_last"):
        return logits.to(**channels_last)
    if layout == "queries":  # as the classes of queries are given to the loss
        return logits[0, :, 0].t().contiguous().t()[None, :, None]
    if layout == "one_of_a_batch":
        return torch.cat([logits, logits]).to(**channels_last)[0][None]
    if layout == "permuted":  # an array (H, W, N)
        return logits[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)[None]
    if layout in ("transposed", "column_on_its_side"):
        turned = logits.transpose(2, 3).clone(memory_format=torch.contiguous_format)
        return turned.transpose(2, 3)
    if layout == "cropped":
        return torch.nn.functional.pad(logits, (0, 3, 0, 2))[:, :, :-2, :-3]
    if layout == "expanded":
        return logits[:, :, :1, :1].expand(logits.shape)
    return logits


def results(case):
    name, loss, gamma, dtype, layout = case
    logits, labels = batch(TREES[name], dtype, layout)
    options = {"gamma": gamma} if loss is tree_min_loss else {}
    value = loss(logits.requires_grad_(), labels, TREES[name], normalize="sum", **options)
    (gradient,) = torch.autograd.grad(value, logits)
    with torch.no_grad():  # without a gradient too
        again = loss(logits, labels, TREES[name], normalize="sum", **options)
    return value.detach(), again, gradient


def query_results():
    """The loss of MODEL.HIERA_SEG.MASK_FORMER.OPTION node_sigmoid: value and gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, requires_grad=True)
    classes = NodeSigmoid(Hierarchy.from_paths(["a/b", "a/c", "d"]))
    value = classes.loss(logits, torch.tensor([0, 1, 2, -1, 3, -1]), 0.1)
    return value.detach(), *torch.autograd.grad(value, logits)


def results_with_nan():
    """The losses of a batch in which one logit is NaN: all of them NaN, or a run goes on on it."""
    tree, found = TREES["ragged"], []
    for loss in (tree_min_loss, bce_loss):
        for node in range(tree.num_nodes):
            logits, labels = batch(tree, torch.float32, "")
            logits[0, node, 0, 0] = float("nan")
            found.append(loss(logits, labels, tree, normalize="sum"))
    return torch.stack(found)


def results_with_void(bad, dtype):
    """Values and gradients of a batch whose logits at void are all `bad`."""
    found = []
    for name in ("cityscapes", "ragged"):
        for loss in (tree_min_loss, bce_loss):
            tree = TREES[name]
            logits, labels = batch(tree, dtype, "")
            logits.permute(0, 2, 3, 1)[labels == 255] = bad
            weights = torch.linspace(0.5, 2, tree.num_nodes)
            value = loss(logits.requires_grad_(), labels, tree, node_weights=weights)
            found += [value.detach(), *torch.autograd.grad(value, logits)]
    return found


BAD = (math.nan, math.inf, -math.inf)
TYPES = (torch.float32, torch.bfloat16)


@needs_triton
def test_value_and_gradient_equal_those_of_the_tiles(tmp_path):
    file = tmp_path / "kernel.pt"
    done = run_python(__file__, file, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr[-2000:]
    found_all, found_query, found_nan, found_void = torch.load(file)
    assert len(found_void) == len(TYPES)
    for expected, *of_bad in found_void:
        assert len(of_bad) == len(BAD)
        for found in of_bad:
            assert all(map(torch.equal, found, expected)), "logits of void are read"
    assert found_nan.isnan().all() and results_with_nan().isnan().all()
    torch.testing.assert_close(found_query, query_results())
    for case, found in zip(CASES, found_all, strict=True):
        value, again, gradient = results(case)
        half = case[3] == torch.bfloat16
        close = {"rtol": 1e-5, "atol": 1e-6} if not half else {"rtol": 1e-2, "atol": 1e-3}
        torch.testing.assert_close(found[0], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[1], again, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[2], gradient, **close)


@needs_triton
def test_the_kernel_is_launched_on_the_device_of_the_logits_on_a_grid_of_any_length(monkeypatch):
    """Seen from a launcher that only looks: no machine here has two GPUs."""
    from hiera_seg.losses.fused import triton_kernel

    calls = MagicMock()
    monkeypatch.setattr(torch.cuda, "device_of", calls.guard)
    monkeypatch.setattr(triton_kernel, "node_kernel", calls.kernel)
    tree = TREES["ragged"]
    logits = torch.empty(2, tree.num_nodes, 5000, 5000, device="meta")
    terms = SimpleNamespace(hierarchy=tree, weight=None, gamma=2.0, consistent=True)
    index = torch.empty(2, 5000, 5000, dtype=torch.int64, device="meta")
    kernel.launch(terms, logits, index, torch.empty_like(logits))
    assert [name for name, *_ in calls.mock_calls] == [
        *("guard", "guard().__enter__", "kernel.__getitem__", "kernel.__getitem__()"),
        "guard().__exit__",
    ]
    assert calls.guard.call_args.args[0] is logits
    grid = calls.kernel.__getitem__.call_args.args[0]
    assert grid[0] > 65535 >= max(grid[1:])  # CUDA's limit for all axes but the first


@needs_triton
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_kernel_compiles_for_a_gpu_that_is_not_there(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from hiera_seg.losses.fused.triton_kernel import node_kernel

    options = {"GAMMA": 2.0, "CONSISTENT": True, "WANTS_GRADIENT": True}
    options |= {"LEVELS": 3, "DEPTHS": 4, "BLOCK": 256}
    pointers = {"logits": dtype, "gradient": dtype, "index": "i64"}
    pointers |= dict.fromkeys(["partial", "weights", "positive"], "fp32")
    pointers |= dict.fromkeys(
        ["order", "depth_of", "inner_of", "first_of", "last_of", "path"], "i32"
    )
    signature = {}
    for name in node_kernel.arg_names:
        if name in options:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = "*" + pointers[name]
        else:
            signature[name] = "fp32" if name == "gamma" else "i32"
    places = {(node_kernel.arg_names.index(name),): value for name, value in options.items()}
    source = triton.compiler.ASTSource(node_kernel, signature, constexprs=places)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert ".entry node_kernel" in compiled.asm["ptx"]


def test_the_kernel_is_for_gpus_and_can_be_turned_off(monkeypatch):
    tree = TREES["cityscapes"]
    assert not kernel.fits(torch.zeros(1, 26, 2, 2), tree)
    if torch.cuda.is_available():
        logits = torch.zeros(1, 26, 2, 2, device="cuda")
        assert kernel.fits(logits, tree)
        assert not kernel.fits(logits.double(), tree)
        monkeypatch.setenv("HIERA_SEG_TRITON", "0")
        assert not kernel.fits(logits, tree)


if __name__ == "__main__":
    seen = []

    def spy(*args):
        seen.append(None)
        return launch(*args)

    launch, kernel.launch = kernel.launch, spy
    kernel.fits = lambda logits, tree: True
    found = [results(case) for case in CASES]
    assert len(seen) == 2 * len(CASES), "the kernel did not run"
    of_void = [[results_with_void(x, dtype) for x in (1.0, *BAD)] for dtype in TYPES]
    torch.save((found, query_results(), results_with_nan(), of_void), sys.argv[1])
