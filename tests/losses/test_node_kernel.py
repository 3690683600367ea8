"""The GPU kernel's arithmetic, run on a CPU by Triton's interpreter.

The interpreter is chosen when Triton is imported, so the comparison runs in a process of its own.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.losses import bce_loss, node_kernel, tree_min_loss

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
CASES = [  # tree, loss, gamma, type, channels_last
    ("cityscapes", tree_min_loss, 2.0, torch.float32, False),
    ("cityscapes", tree_min_loss, 2.0, torch.float32, True),
    ("cityscapes", tree_min_loss, 2.0, torch.bfloat16, False),
    ("cityscapes", bce_loss, 0.0, torch.float32, False),
    ("ragged", tree_min_loss, 0.0, torch.float32, False),
    ("ragged", tree_min_loss, 1.5, torch.float32, False),
    ("shuffled", tree_min_loss, 2.0, torch.float32, False),
    ("one", tree_min_loss, 2.0, torch.float32, False),
]


def batch(tree, dtype, channels_last):
    generator = torch.Generator().manual_seed(tree.num_nodes)
    # More pixels than a program takes, or more than one image. In bfloat16 no two nodes of a pixel
    # tie, for ties are where the kernel differs.
    size = (1, 9, 35) if tree.name == "cityscapes" else (2, 5, 7)
    order = torch.rand(size[0], tree.num_nodes, *size[1:], generator=generator).argsort(1)
    logits = (order - tree.num_nodes / 2) / 4
    if dtype == torch.float32:
        logits = logits + 0.1 * torch.randn(logits.shape, generator=generator)
    labels = torch.randint(0, tree.num_nodes, size, generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    logits = logits.to(dtype)
    if channels_last:
        logits = logits.to(memory_format=torch.channels_last)
    return logits, labels


def results(case):
    name, loss, gamma, dtype, channels_last = case
    logits, labels = batch(TREES[name], dtype, channels_last)
    options = {"gamma": gamma} if loss is tree_min_loss else {}
    logits.requires_grad_()
    value = loss(logits, labels, TREES[name], normalize="sum", **options)
    value.backward()
    with torch.no_grad():  # without a gradient too
        again = loss(logits, labels, TREES[name], normalize="sum", **options)
    return value.detach(), again, logits.grad


@needs_triton
def test_value_and_gradient_equal_those_of_the_tiles(tmp_path):
    file = tmp_path / "kernel.pt"
    done = subprocess.run(
        [sys.executable, __file__, file],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for case, found in zip(CASES, torch.load(file), strict=True):
        value, again, gradient = results(case)
        half = case[3] == torch.bfloat16
        close = {"rtol": 1e-5, "atol": 1e-6} if not half else {"rtol": 1e-2, "atol": 1e-3}
        torch.testing.assert_close(found[0], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[1], again, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[2], gradient, **close)


@needs_triton
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_kernel_compiles_for_a_gpu_that_is_not_there(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from hiera_seg.losses.node_kernel_triton import node_kernel as kernel

    options = {"GAMMA": 2.0, "CONSISTENT": True, "WANTS_GRADIENT": True}
    options |= {"LEVELS": 3, "DEPTHS": 4, "BLOCK": 256}
    pointers = {"logits": dtype, "gradient": dtype, "index": "i64"}
    pointers |= dict.fromkeys(["partial", "negative", "positive"], "fp32")
    pointers |= dict.fromkeys(["order", "depth_of", "inner_of", "path"], "i32")
    signature = {}
    for name in kernel.arg_names:
        if name in options:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = "*" + pointers[name]
        else:
            signature[name] = "fp32" if name == "gamma" else "i32"
    places = {(kernel.arg_names.index(name),): value for name, value in options.items()}
    source = triton.compiler.ASTSource(kernel, signature, constexprs=places)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert ".entry node_kernel" in compiled.asm["ptx"]


def test_the_kernel_is_for_gpus_and_can_be_turned_off(monkeypatch):
    tree = TREES["cityscapes"]
    assert not node_kernel.fits(torch.zeros(1, 26, 2, 2), tree)
    if torch.cuda.is_available():
        logits = torch.zeros(1, 26, 2, 2, device="cuda")
        assert node_kernel.fits(logits, tree)
        assert not node_kernel.fits(logits.double(), tree)
        monkeypatch.setenv("HIERA_SEG_TRITON", "0")
        assert not node_kernel.fits(logits, tree)


if __name__ == "__main__":
    seen = []

    def fused_sum(*args, **kwargs):
        seen.append(None)
        return kernel(*args, **kwargs)

    kernel, node_kernel.fused_sum = node_kernel.fused_sum, fused_sum
    node_kernel.fits = lambda logits, tree: True
    found = [results(case) for case in CASES]
    assert len(seen) == 2 * len(CASES), "the kernel did not run"
    torch.save(found, sys.argv[1])
