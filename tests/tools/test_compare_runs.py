"""tools/compare_runs.py from the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from hiera_seg.evaluation import ImageCounts
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import PathCounts
from tests.messages import check_one_error

TREE = Hierarchy.from_dict(
    {"flat": ["road", "path"], "vehicle": ["car"]}, levels=["group", "class"]
)


def write_run(folder, wrong):
    rng = np.random.default_rng(0)
    counts, images = PathCounts(TREE), []
    for i in range(20):
        truth = rng.integers(0, 3, (10, 20))
        labels = np.where(rng.random(truth.shape) < wrong, (truth + 1) % 3, truth)
        images.append((f"{i}.png", counts.add(labels, truth)))
    folder.mkdir(parents=True)
    ImageCounts.of("toy", TREE, images).save(folder / "image_counts.npz")
    return folder


@pytest.fixture
def runs(tmp_path):
    shares = {"flat/s0": 0.3, "flat/s1": 0.3, "tree/s0": 0.2, "tree/s1": 0.2, "same": 0.3}
    return {name: write_run(tmp_path / name, wrong) for name, wrong in shares.items()}


def test_prints_tables_and_writes_json_and_plot(runs, tmp_path, start_tool):
    run = start_tool("compare_runs")
    out = tmp_path / "out"
    code, printed, _ = run(runs["flat/s0"], runs["tree/s0"], runs["same"], "--output", out)
    assert code == 0
    assert "flat/s0" in printed and "better" in printed and "no difference beyond noise" in printed
    content = json.loads((out / "comparison.json").read_text())
    verdicts = [one["levels"][1]["miou"]["verdict"] for one in content["comparisons"]]
    assert verdicts == ["better", "no difference beyond noise"]
    assert content["resamples"] == 1000
    with Image.open(out / "comparison.png") as image:
        assert image.width > 600

    seeds = [",".join(str(runs[f"{name}/s{i}"]) for i in range(2)) for name in ("flat", "tree")]
    code, printed, _ = run(*seeds, "--output", out, "--resamples", 50)
    assert code == 0 and "20 images, 2 pairs of runs" in printed
    content = json.loads((out / "comparison.json").read_text())
    assert content["comparisons"][0]["num_pairs"] == 2


def test_bad_runs_and_options_are_one_line(runs, tmp_path, start_tool):
    run, out = start_tool("compare_runs"), tmp_path / "out"
    check_one_error(run(runs["same"], tmp_path / "none", "--output", out), 1, f"{tmp_path}/none")
    assert not out.exists()
    check_one_error(run(f"{runs['same']},{runs['flat/s0']}", runs["same"]), 1, "same has 2 runs")
    for option, value in (("--resamples", 0), ("--confidence", 1)):
        code, _, error = run(runs["same"], runs["same"], option, value)
        assert code == 2 and option in error
