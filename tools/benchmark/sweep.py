"""Measure time and memory of the tree-min loss by number of nodes, depth and number of pixels."""

import statistics
import time
from dataclasses import dataclass
from functools import partial

import torch

from benchmark.harness import Maker, peak_in_child, synchronize
from benchmark.losses import cityscapes, make_tree_min
from hiera_seg.hierarchy import Hierarchy

_GROUPS = 8


@dataclass(frozen=True)
class Point:
    """A measurement: median seconds of forward and backward, and peak memory in MiB."""

    sweep: str
    nodes: int
    depth: int
    pixels: int
    seconds: float
    memory: float | None


def chained(num_nodes: int, depth: int) -> Hierarchy:
    """Return a tree of 8 chains of inner nodes with leaves under their ends."""
    leaves = num_nodes - _GROUPS * (depth - 1)
    chains = ["/".join(f"c{group}_{d}" for d in range(depth - 1)) for group in range(_GROUPS)]
    return Hierarchy.from_paths([f"{chains[i % _GROUPS]}/l{i}" for i in range(leaves)])


# (nodes, depth, height, width); None: the Cityscapes tree.
SWEEPS: dict[str, list[tuple[int | None, int, int, int]]] = {
    "nodes": [(nodes, 2, 256, 256) for nodes in (16, 32, 64, 128, 256, 512, 1024)],
    "depth": [(128, depth, 512, 512) for depth in range(2, 9)],
    "pixels": [(None, 2, 256 << i // 2, 256 << (i + 1) // 2) for i in range(7)],
}


def _tree(name: str, index: int) -> Hierarchy:
    nodes, depth, _, _ = SWEEPS[name][index]
    return cityscapes() if nodes is None else chained(nodes, depth)


def make_point(name: str, index: int) -> Maker:
    """Return the function that a point of a sweep measures."""
    tree, size = _tree(name, index), SWEEPS[name][index][2:]
    return partial(make_tree_min, lambda: tree, (1, *size), False)


def run_sweeps(device: torch.device, rounds: int, memory: bool = True) -> list[Point]:
    """Measure all points and print each."""
    points = []
    for name, cases in SWEEPS.items():
        for index, (_, depth, height, width) in enumerate(cases):
            nodes, pixels = _tree(name, index).num_nodes, height * width
            seconds = _median(make_point(name, index)(device), rounds, device)
            peak = peak_in_child(f"{name}:{index}", "ours", device) if memory else None
            points.append(Point(name, nodes, depth, pixels, seconds, peak))
            shown = "" if peak is None else f", {peak:.0f} MiB"
            print(
                f"{name}: {nodes} nodes, depth {depth}, {pixels} pixels: "
                f"{1000 * seconds:.1f} ms{shown}",
                flush=True,
            )
    return points


def _median(run, rounds: int, device: torch.device) -> float:
    times = []
    for _ in range(rounds + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one warms up


def plot(points: list[Point], path: str) -> None:
    """Draw the sweeps side by side into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(SWEEPS), figsize=(12, 3.6), constrained_layout=True)
    for axis, (name, title) in zip(
        axes,
        (
            ("nodes", "nodes (65k pixels, depth 2)"),
            ("depth", "depth (128 nodes, 262k pixels)"),
            ("pixels", "pixels (26 nodes)"),
        ),
        strict=True,
    ):
        chosen = [point for point in points if point.sweep == name]
        x = [getattr(point, name) for point in chosen]
        axis.plot(x, [1000 * point.seconds for point in chosen], "o-", color="tab:blue")
        axis.set_xlabel(title)
        axis.set_ylabel("ms, forward and backward", color="tab:blue")
        beside = axis.twinx()
        if all(point.memory is not None for point in chosen):
            beside.plot(x, [point.memory for point in chosen], "s--", color="tab:orange")
        beside.set_ylabel("MiB, peak of extra memory", color="tab:orange")
        if name == "depth":
            for each in (axis, beside):
                each.update_datalim([(x[0], 0)])  # the margin is then a share of the whole height
                each.autoscale_view()
                each.set_ylim(bottom=0)
        else:
            for each in (axis, beside):
                each.set_xscale("log", base=2)
                each.set_yscale("log", base=2)
        axis.grid(alpha=0.3)
    figure.suptitle("focal tree_min")
    figure.savefig(path, dpi=110)
    plt.close(figure)
