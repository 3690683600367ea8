"""Check the losses on a GPU: values against float64, share of the copy bandwidth, training steps.

``python -m benchmark.gpu --output FILE`` is a part of gpu_check.sh. Without a GPU it runs the same
checks on the CPU at small sizes, and marks the figures of the GPU as "not run".
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmark.harness import Comparison, measure, synchronize, table
from benchmark.losses import VOID, cityscapes, mapillary_sized, street_labels
from benchmark.training import make_step
from hiera_seg.disk import replace_text
from hiera_seg.losses import bce_loss, tree_min_loss
from hiera_seg.losses.fused import kernel
from hiera_seg.losses.fused.node_terms import NodeTerms, node_factors
from hiera_seg.losses.labels import LabelledLogits

MIN_SHARE = 0.8  # of the bandwidth of a copy
MAX_STEP = 1.03  # of the time of the flat step


def largest_differences(device: torch.device, size: tuple[int, int]) -> dict[str, list[float]]:
    """Compare value and gradient with those of float64 on the CPU.

    Returns:
        For each loss, tree and dtype: the relative difference of the value, and the largest
        difference of a gradient, relative to the largest gradient.
    """
    found = {}
    for make_tree in (cityscapes, mapillary_sized):
        tree = make_tree()
        torch.manual_seed(0)
        labels = street_labels((1, *size), tree.num_nodes, torch.device("cpu"), patch=8)
        logits = 3 * torch.randn(1, tree.num_nodes, *size)
        for name, loss in (
            ("focal tree_min", partial(tree_min_loss, gamma=2.0)),
            ("bce", bce_loss),
        ):
            for dtype in (torch.float32, torch.bfloat16):
                given = logits.to(dtype)
                results = []
                for values in (given.double(), given.to(device, copy=True)):
                    values.requires_grad_()
                    value = loss(values, labels.to(values.device), tree)
                    value.backward()
                    results.append((value.detach().cpu().double(), values.grad.cpu().double()))
                (exact, slope), (value, gradient) = results
                errors = (value - exact).abs() / exact, (gradient - slope).abs().max()
                key = f"{name}, {tree.num_nodes} nodes, {str(dtype)[6:]}"
                found[key] = [float(errors[0]), float(errors[1] / slope.abs().max())]
    return found


def copy_shares(device: torch.device, size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Return the bandwidth of the loss and its gradient over that of a copy of the logits."""
    tree, shares = cityscapes(), {}
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.randn(2, tree.num_nodes, *size, device=device, dtype=dtype)
        labels = street_labels((2, *size), tree.num_leaves, device)
        batch = LabelledLogits(logits, labels, tree, VOID)
        terms = NodeTerms(batch, *node_factors(batch, "sum", None, None), gamma=2.0)
        gradient = torch.empty_like(logits)
        if kernel.fits(logits, tree):
            run = partial(kernel.launch, terms, logits, terms.index, gradient)
        else:
            logits.requires_grad_()
            run = terms.sum
        copied = 2 * logits.numel() * logits.element_size()
        read = copied + terms.index.numel() * terms.index.element_size()
        copy = copied / _seconds(partial(gradient.copy_, logits.detach()), device, repeats)
        shares[str(dtype)[6:]] = read / _seconds(run, device, repeats) / copy
    return shares


def _seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the best mean of three."""
    means = []
    for _ in range(4):  # the first one warms up
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(device)
        means.append((time.perf_counter() - start) / repeats)
    return min(means[1:])


def make_bf16_step(hierarchical: bool, depth: int, batch: int, crop, device):
    """Return a training step of `make_step` with the forward pass in bfloat16."""
    run = make_step(hierarchical, depth, batch, crop, device)

    def step():
        with torch.autocast(device.type, dtype=torch.bfloat16):
            run()

    return step


def steps(device: torch.device) -> list[Comparison]:
    """Return the steps to compare: of the paper's size on a GPU, small ones on a CPU."""
    on_gpu = device.type == "cuda"
    batch, crop = (8, (512, 1024)) if on_gpu else (1, (64, 128))
    return [
        Comparison(
            f"DeepLabV3+ R-{depth}, {batch} x {crop[0]} x {crop[1]}, bf16, HSSN",
            partial(make_bf16_step, True, depth, batch, crop),
            partial(make_bf16_step, False, depth, batch, crop),
            "stock SemanticSegmentor, flat cross entropy",
            max_time=MAX_STEP if on_gpu else None,
        )
        for depth in ((50, 101) if on_gpu else (18,))
    ]


def main(output: str) -> bool:
    """Run all checks, print them and write them as json; return whether all limits are met."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "no GPU (figures of a GPU: not run)"
    print(f"{name}, torch {torch.__version__}", flush=True)
    differences = largest_differences(device, (65, 97) if on_gpu else (17, 33))
    passed = True
    for key, (value, slope) in differences.items():
        limit = 0.02 if "bfloat16" in key else 1e-5
        passed &= value < 1e-5 and slope < limit
        print(
            f"{key}: value differs by {value:.1e}, gradient by {slope:.1e} of float64", flush=True
        )
    size, repeats = ((512, 1024), 50) if on_gpu else ((64, 128), 2)
    shares = copy_shares(device, size, repeats)
    for dtype, share in shares.items():
        met = f"at least {MIN_SHARE}" if on_gpu else "on a CPU; the kernel's: not run"
        passed &= share >= MIN_SHARE or not on_gpu
        print(
            f"loss and gradient, {dtype}: {share:.2f} of the bandwidth of a copy ({met})",
            flush=True,
        )
    results = [measure(row, "", device, 9 if on_gpu else 1, memory=False) for row in steps(device)]
    print(table(results), flush=True)
    passed &= all(result.passed for result in results)
    facts = {
        "device": name,
        "torch": torch.__version__,
        "passed": passed,
        "differences": differences,
        "copy_shares": shares,
        "steps": {result.name: result.time_ratio for result in results},
    }
    replace_text(output, json.dumps(facts, indent=1))
    return passed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="gpu_check.json", metavar="FILE")
    raise SystemExit(0 if main(parser.parse_args().output) else 1)
