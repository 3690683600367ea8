"""tools/export_model.py: a small network of configs/, with random weights in a file."""

from pathlib import Path

import pytest
import torch

from hiera_seg.cli import load_config
from hiera_seg.engine import HieraTrainer
from tests.helpers import CONFIGS, run_python
from tests.messages import check_one_error

CONFIG = CONFIGS / "CamVid/flat_deeplab_v3_plus_r18.yaml"
SMALL = [
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "16"),
    *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "16"),
    *("MODEL.HIERA_SEG.TEST.OUTPUT", "labels"),
]

# What docs/export.md says of a machine without this package.
RUN_ELSEWHERE = """
import json, sys
sys.modules["hiera_seg"] = sys.modules["detectron2"] = None
import torch
about = {"hiera_seg.json": ""}
model = torch.jit.load(sys.argv[1], _extra_files=about)
about = json.loads(about["hiera_seg.json"])
labels, direct = model(torch.zeros(1, 3, 50, 70, dtype=torch.uint8))
print(about["nodes"][labels[0, -1, 0, 0]].startswith(about["nodes"][labels[0, 0, 0, 0]]))
print(tuple(labels.shape), len(about["levels"]))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.manual_seed(0)
    model = HieraTrainer.build_model(load_config(str(CONFIG), [*SMALL, "MODEL.DEVICE", "cpu"]))
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture
def run(start_tool):
    return start_tool("export_model")


def test_a_file_is_written_checked_and_runs_without_the_package(run, weights, tmp_path):
    out = tmp_path / "model.pt"
    code, printed, _ = run(
        *("--config-file", CONFIG, "--format", "torchscript", "--output", out),
        *("--opts", *SMALL, "MODEL.WEIGHTS", weights),
    )
    assert code == 0
    last = printed.strip().splitlines()[-1]
    assert last.startswith(f"wrote {out} (torchscript): image -> hiera_labels, hiera_labels_direct")
    elsewhere = run_python("-c", RUN_ELSEWHERE, out)
    assert elsewhere.stdout.splitlines() == ["True", "(1, 3, 50, 70) 3"], elsewhere.stderr


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--opts"], 2, "MODEL.WEIGHTS is empty"),
        (["--opts", "MODEL.WEIGHTS", "nope.pth"], 1, "nope.pth: no such checkpoint file"),
        (["--opts", "MODEL.HIERA_SEG.TEST.OUTPUT", "all", "MODEL.WEIGHTS", "x"], 2, "OUTPUT is"),
    ],
    ids=str,
)
def test_what_can_not_work_is_one_line(run, options, code, line, tmp_path):
    out = tmp_path / "x.pt"
    export = ("--config-file", CONFIG, "--format", "torchscript", "--output", out)
    check_one_error(run(*export, *options), code, line)
    assert not out.exists()


def test_a_query_head_is_refused(run, weights, tmp_path):
    config = CONFIGS / "Generated/maskformer_r18.yaml"
    export = ("--config-file", config, "--format", "onnx", "--output", tmp_path / "x.onnx")
    found = run(*export, "--opts", "MODEL.WEIGHTS", weights)
    check_one_error(found, 2, "HieraMaskFormerHead", "use HieraPixelHead")
