"""tools/report.py: a run's folder as one html file, and errors of one line."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.engine import HieraTrainer
from tests.helpers import new_config, report_data, write_dataset
from tests.messages import check_one_error
from tests.tiny_street import SMALL_NETWORK, STREET

pytest.importorskip("plotly", reason="needs plotly")
NAME = "report_street_test"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run that has been evaluated: config, weights, numbers and curves."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "run").mkdir()
    labels = np.random.default_rng(0).integers(0, 4, (3, 40, 50), dtype=np.uint8)
    register_hierarchical_dataset(NAME, hierarchy=STREET, **write_dataset(folder, labels))
    cfg = new_config(*SMALL_NETWORK)
    cfg.DATASETS.TEST = (NAME,)
    cfg.OUTPUT_DIR = str(folder / "run")
    (folder / "run" / "config.yaml").write_text(cfg.dump())
    (folder / "run" / "metrics.json").write_text('{"iteration": 19, "total_loss": 2.5}\n')
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, folder / "run" / "model_final.pth")
    (folder / "run" / "last_checkpoint").write_text("model_final.pth")
    HieraTrainer.test(cfg, model)
    return folder


@pytest.fixture
def report(start_tool, project, tmp_path):
    run_tool = start_tool("report")

    def run(*options, run=project / "run"):
        options = ["--output", tmp_path / "report.html", *options]
        options = ["--run", run, *options] if run else options
        return run_tool(*options)

    return run


def test_a_run_is_all_it_needs(report, tmp_path):
    code, out, err = report("--images", 2)
    assert (code, err) == (0, "") and re.search(r"report.html: \d\.\d MB", out)
    data = report_data(tmp_path / "report.html")
    assert [image["name"] for image in data["images"]] == ["0.png", "2.png"]
    assert data["curves"]["losses"][0]["y"] == [2.5] and data["notes"] == []


def test_the_last_evaluation_may_have_had_other_test_sets(start_tool, project, tmp_path):
    run, page = tmp_path / "run", tmp_path / "report.html"
    shutil.copytree(project / "run", run)
    command = ["--run", run, "--images", 0, "--output", page]
    for name in (NAME, "hiera_generated_val"):  # of an --eval-only, which keeps config.yaml
        folder = run / "inference" / name
        folder.mkdir(parents=True)
        for file in (*run.glob("confusion_*.npz"), run / "hiera_metrics.json"):
            shutil.copy(file, folder)
        summary = json.loads((folder / "hiera_metrics.json").read_text())
        summary |= {"dataset": name, "images": 99}
        (folder / "hiera_metrics.json").write_text(json.dumps(summary))
        os.utime(run / "hiera_metrics.json", (0, 0))
        code, out, err = start_tool("report")(*command, "--dataset", name)
        assert code == 0 and f"evaluation: {folder}" in out, err
        assert report_data(page)["numImages"] == 99 and report_data(page)["dataset"] == name
    os.utime(run / "inference" / NAME / "hiera_metrics.json", (-9, -9))
    assert start_tool("report")(*command)[0] == 0 and report_data(page)["numImages"] == 3


def test_numbers_alone_without_a_model(report, tmp_path):
    assert report("--images", 0)[0] == 0
    assert report_data(tmp_path / "report.html")["images"] == []


def test_what_keeps_images_out_is_told_and_the_numbers_are_written(report, project, tmp_path):
    code, out, err = report("--opts", "MODEL.WEIGHTS", project / "none.pth")
    assert code == 0 and err.startswith("warning: no images: ") and "none.pth" in err
    data = report_data(tmp_path / "report.html")
    assert data["images"] == [] and "none.pth" in data["notes"][0]


def test_an_image_that_can_not_be_read_is_left_out(report, project, tmp_path, caplog):
    good = project / "images" / "0.png"
    content = good.read_bytes()
    try:
        good.write_bytes(b"no image")
        with caplog.at_level("WARNING", logger="hiera_seg"):
            code, _, _ = report("--images", 3)
    finally:
        good.write_bytes(content)
    data = report_data(tmp_path / "report.html")
    assert code == 0 and len(data["images"]) == 2
    assert "0.png" in data["notes"][0] and "0.png" in caplog.text


def test_bad_arguments(report, project, tmp_path):
    check_one_error(report(run=None), 2, "--run", "--config-file")
    check_one_error(report(run=tmp_path / "nowhere"), 2, "nowhere is not a folder")
    check_one_error(report("--images", -1), 2, "--images is -1")
    check_one_error(report("--dataset", "nothing"), 2, "nothing")
    other = "hiera_generated_val"
    check_one_error(report("--dataset", other), 2, f"is of {NAME}, not of {other}", "--eval-only")
    check_one_error(report("--output", project), 2, "is a folder")
    check_one_error(
        report("--images", 0, "--output", project / "run/config.yaml/r.html"), 2, "r.html"
    )
    check_one_error(report(run=project / "images"), 2, "no evaluation", "hiera_metrics.json")
