"""The benchmark's own parts: what it compares does the same work, and its ratios are right."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import (
    GROUPS,
    Comparison,
    as_rows,
    evaluation,
    gpu,
    inference,
    losses,
    measure,
    sweep,
    table,
    training,
)
from benchmark.harness import Result
from hiera_seg import losses as losses_of_nodes
from hiera_seg.metrics import count_image
from tests.helpers import REPOSITORY, TOOLS, run_python

CPU = torch.device("cpu")


def test_memory_is_the_peak_of_one_run():
    command = (
        "import torch; from benchmark.harness import peak_memory;"
        "make = lambda device: lambda: torch.ones(256 << 18).sum();"
        "print(peak_memory(make, torch.device('cpu')))"
    )
    # In a process of its own: this one may hold that much freed memory and need no more.
    paths = os.pathsep.join([str(TOOLS), str(REPOSITORY)])
    environment = {"PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    done = run_python("-c", command, **environment)
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() == "None":
        pytest.skip("this system does not tell a process its peak memory")
    assert 220 < float(done.stdout) < 300


def test_time_ratio_is_ours_over_the_other():
    def work(times):
        values = torch.rand(1 << 16)
        return lambda device: lambda: [values.sort() for _ in range(times)]

    comparison = Comparison("slow", work(20), work(2), "quick", max_time=1.0)
    result = measure(comparison, "none:0", CPU, rounds=3, memory=False)
    assert 3 < result.time_ratio < 40
    assert not result.passed
    assert result.memory is None


def test_targets_are_upper_limits():
    numbers = {"seconds": 1.0, "other_seconds": 1.0, "other_memory": 10.0, "memory_ratio": 1.0}
    limits = {"max_time": 1.0, "max_memory": 1.0, "max_extra": 10.0}
    fit, slow, large = (
        Result("a", "b", time_ratio=time, memory=memory, **numbers, **limits)
        for time, memory in ((1.0, 10.0), (1.1, 10.0), (1.0, 11.0))
    )
    assert fit.passed and not slow.passed and not large.passed
    shown = table([fit, slow]).splitlines()
    assert shown[2].endswith("| yes   |") and shown[3].endswith("| NO    |")
    assert [row["passed"] for row in as_rows([fit, slow])] == [True, False]


def test_every_row_has_a_target_and_a_name_of_its_own():
    rows = [row for group in GROUPS.values() for row in group]
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.max_time or row.max_memory or row.max_extra for row in rows)


@pytest.mark.parametrize(
    "make",
    [
        lambda device: losses.make_tree_min(losses.cityscapes, (1, 64, 96), False, device),
        lambda device: losses.make_bce(losses.cityscapes, (1, 64, 96), device),
        lambda device: losses.make_tree_ce(losses.marginal_ce_loss, (1, 64, 96), device),
        lambda device: losses.make_flat_ce((1, 64, 96), device),
    ],
)
def test_losses_go_back_to_the_logits(make):
    gradient = make(CPU)()
    assert gradient.abs().sum() > 0


def test_both_sides_decode_the_same_labels():
    size = (64, 96)
    ours = inference.make_bands(losses.cityscapes, size, CPU)()["hiera_labels"]
    whole = inference.make_whole(losses.cityscapes, size, CPU)()
    assert len(ours) == len(whole) == 2
    assert all(torch.equal(a.long(), b) for a, b in zip(ours, whole, strict=True))


def test_both_sides_average_the_same_views(monkeypatch):
    size, sides = (64, 128), (48, 64)
    monkeypatch.setattr(inference, "_INPUT", (32, 64))
    ours = inference.make_augmented(18, size, sides, CPU)()[0]["hiera_labels"]
    plain = inference.make_plain_average(18, size, sides, CPU)()
    assert len(ours[1].unique()) > 1
    for a, b in zip(ours, plain, strict=True):
        assert (a == b).float().mean() > 0.999
    views = inference.make_banded_views(size, sides, CPU)()["hiera_labels"]
    plain = inference.make_plain_views(size, sides, CPU)()
    assert all((a == b).float().mean() > 0.999 for a, b in zip(views, plain, strict=True))


def test_both_sides_predict_at_the_size_of_the_original(monkeypatch):
    monkeypatch.setattr(inference, "_INPUT", (32, 64))
    monkeypatch.setattr(inference, "_FULL", (64, 128))
    ours = inference.make_prediction(18, CPU)()[0]["hiera_labels"]
    assert [tuple(x.shape) for x in ours] == [(64, 128)] * 2
    assert inference.make_flat_prediction(18, CPU)().shape == (64, 128)


def test_both_sides_count_the_same_pixels(monkeypatch):
    monkeypatch.setattr(evaluation, "_SIZE", (64, 96))
    tree = losses.cityscapes()
    flat = evaluation.make_bincount(CPU)()
    truth, paths, direct = evaluation._maps()
    nodes, _, consistent = count_image(paths[-1], truth, tree, direct=direct)
    leaves = tree.num_leaves
    assert np.array_equal(nodes.matrix[:leaves, :leaves], flat[:leaves, :leaves])
    assert 0 < consistent < np.count_nonzero(truth != losses.VOID)


@pytest.mark.parametrize("hierarchical", [True, False])
def test_a_training_step_changes_the_weights(hierarchical):
    run = training.make_step(hierarchical, 18, 2, (64, 64), CPU)
    cells = [cell.cell_contents for cell in run.__closure__]
    (model,) = [value for value in cells if isinstance(value, torch.nn.Module)]
    before = model.sem_seg_head.predictor.weight.detach().clone()
    run()
    assert not torch.equal(before, model.sem_seg_head.predictor.weight)


def test_sweeps_vary_one_thing_at_a_time(monkeypatch, tmp_path):
    small = {name: [(n, d, 16, 16) for n, d, _, _ in rows] for name, rows in sweep.SWEEPS.items()}
    small["pixels"] = [(None, 2, 16, 16 << i) for i in range(3)]
    monkeypatch.setattr(sweep, "SWEEPS", small)
    points = sweep.run_sweeps(CPU, rounds=1, memory=False)
    found = {name: [p for p in points if p.sweep == name] for name in small}
    assert [p.nodes for p in found["nodes"]] == [16, 32, 64, 128, 256, 512, 1024]
    assert {p.depth for p in found["nodes"]} == {2}
    assert [p.depth for p in found["depth"]] == list(range(2, 9))
    assert {p.nodes for p in found["depth"]} == {128}
    assert [p.pixels for p in found["pixels"]] == [256, 512, 1024]
    assert sweep.chained(128, 5).num_levels == 5
    sweep.plot(points, str(tmp_path / "sweep.png"))
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_the_check_of_a_gpu_finds_a_loss_that_is_off(monkeypatch):
    close = gpu.largest_differences(CPU, (9, 17))
    assert len(close) == 8
    for key, (value, slope) in close.items():
        assert value < 1e-5 and slope < (0.02 if "bfloat16" in key else 1e-5)

    def off(logits, labels, tree):
        factor = 1.0 if logits.dtype == torch.float64 else 1.05
        return factor * losses_of_nodes.bce_loss(logits, labels, tree)

    monkeypatch.setattr(gpu, "bce_loss", off)
    for key, (value, slope) in gpu.largest_differences(CPU, (9, 17)).items():
        assert (value > 0.04 and slope > 0.02) == key.startswith("bce")


@pytest.mark.parametrize("has_kernel", [True, False])
def test_the_check_of_a_gpu_times_the_kernel_if_it_fits(monkeypatch, has_kernel):
    launched = []

    def launch(terms, logits, index, gradient):
        launched.append((terms.gamma, logits.dtype, index.shape, gradient.shape == logits.shape))

    monkeypatch.setattr(gpu.kernel, "fits", lambda *_: has_kernel)
    monkeypatch.setattr(gpu.kernel, "launch", launch)
    monkeypatch.setattr(gpu.NodeTerms, "sum", lambda self: self)
    assert gpu.copy_shares(CPU, (8, 16), 1).keys() == {"float32", "bfloat16"}
    dtypes = (torch.float32, torch.bfloat16) if has_kernel else ()
    assert set(launched) == {(2.0, dtype, (2, 8, 16), True) for dtype in dtypes}


def test_the_script_of_the_gpu_check_refuses_a_folder_that_is_not_there(tmp_path):
    script = Path(gpu.__file__).with_name("gpu_check.sh")
    done = subprocess.run(
        ["bash", script, tmp_path / "wheels", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert str(tmp_path / "wheels") in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["speed"], "unknown group 'speed'; choose from losses, train, eval, inference"),
        (["--sweep", "--plot", "sweep.bmp"], "name a file that ends in .png, .pdf or .svg"),
        (["losses", "--sweep"], "--sweep measures tree_min alone: remove GROUP and --only"),
        (["losses", "--only", "zzz"], "error: --only 'zzz': no row has a name that contains it"),
    ],
)
def test_the_command_line_refuses_what_it_does_not_know(
    start_tool, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    code, _, error = start_tool("benchmark")(*options)
    assert code == 2 and error.endswith(f"{message}\n")
