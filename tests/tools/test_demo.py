"""tools/demo.py on a small network with random weights: files, and errors of one line."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from hiera_seg import Hierarchy, add_hiera_seg_config
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.engine import exit_on_error

TOOL = Path(__file__).parents[2] / "tools/demo.py"
STREET = Hierarchy.from_dict(
    {"flat": ["road", "path"], "vehicle": {"van": None, "car": ["bus", "taxi"]}},
    name="street",
    levels=["group", "kind", "class"],
)
NAME = "demo_street_test"
SMALL_NETWORK = [
    "MODEL.DEVICE", "cpu",
    "MODEL.META_ARCHITECTURE", "HieraSegmentor",
    "MODEL.WEIGHTS", "",
    "MODEL.BACKBONE.NAME", "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH", 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.RESNETS.OUT_FEATURES", ["res2", "res5"],
    "MODEL.RESNETS.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.NAME", "HieraPixelHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res5"],
    "MODEL.SEM_SEG_HEAD.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8,
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 8,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [1, 2, 3],
    "MODEL.HIERA_SEG.LOSSES", [["bce", 1.0]],
    "INPUT.MIN_SIZE_TEST", 0,
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tree, a config, weights, images in two folders and a dataset."""
    folder = tmp_path_factory.mktemp("demo")
    rng = np.random.default_rng(0)
    for name in ("images/a.jpg", "images/b.png", "more/a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    (folder / "labels").mkdir()
    for stem in "ab":
        Image.fromarray(np.full((40, 50), STREET["car"], np.uint8)).save(
            folder / f"labels/{stem}.png"
        )
    (folder / "images" / "notes.txt").write_text("no image")
    STREET.to_yaml(folder / "street.yaml")

    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    cfg.merge_from_list(SMALL_NETWORK)
    cfg.MODEL.HIERA_SEG.HIERARCHY = str(folder / "street.yaml")
    cfg.OUTPUT_DIR = str(folder / "run")
    (folder / "run").mkdir()
    (folder / "config.yaml").write_text(cfg.dump())
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    backbone = {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()}
    torch.save({"model": backbone}, folder / "backbone.pth")

    register_hierarchical_dataset(
        NAME,
        hierarchy=STREET,
        image_root=str(folder / "images"),
        sem_seg_root=str(folder / "labels"),
    )
    yield folder
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def demo(project, monkeypatch, capsys, tmp_path):
    """Runs the command in this process; gives exit code, stdout and stderr."""
    tool = runpy.run_path(str(TOOL))

    def run(*options, weights="weights.pth"):
        options = ["--config-file", project / "config.yaml", "--output", tmp_path / "out", *options]
        if weights:
            options += [] if "--opts" in options else ["--opts"]
            options += ["MODEL.WEIGHTS", project / weights]
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, options)])
        code = 0
        try:
            exit_on_error(tool["main"], tool["parse_args"]())
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_of_every_level(demo, project, tmp_path):
    code, out, err = demo("--input", project / "images" / "a.jpg")
    assert (code, err) == (0, "") and "1 of 1 images" in out
    expected = [f"a-ids-{level}.png" for level in STREET.level_names] + ["a-levels.png"]
    expected += [f"a_{level}.png" for level in STREET.level_names]
    assert names_in(tmp_path / "out") == sorted(expected)
    ids = [
        np.asarray(Image.open(tmp_path / "out" / f"a-ids-{level}.png"))
        for level in STREET.level_names
    ]
    assert all(np.isin(ids[level], STREET.level_nodes(level)).all() for level in range(3))
    assert (ids[0] == STREET.level_ancestor[0][ids[2]]).all() and ids[0].shape == (40, 50)


def test_folders_globs_and_one_level(demo, project, tmp_path):
    code, out, _ = demo("--input", project / "images", project / "*" / "a.jpg", "--level", "kind")
    assert code == 0 and "3 of 3 images" in out  # each once, and no text file
    stems = ["images_a.jpg", "images_b.png", "more_a.jpg"]  # folders tell equal names apart
    files = [f"{stem}{end}.png" for stem in stems for end in ("_kind", "-ids-kind", "-levels")]
    assert names_in(tmp_path / "out") == sorted(files)


def test_a_dataset_is_drawn_with_its_ground_truth(demo, project, tmp_path):
    code, out, err = demo("--dataset", NAME, "--num", 2)
    assert (code, err) == (0, "") and "2 of 2 images" in out
    with_truth = Image.open(tmp_path / "out" / "a-levels.png").height
    demo("--input", project / "images" / "a.jpg")
    assert with_truth > 1.3 * Image.open(tmp_path / "out" / "a-levels.png").height


def test_the_test_set_of_the_config_is_the_default(demo):
    code, out, _ = demo("--num", 1, "--opts", "DATASETS.TEST", f"('{NAME}',)")
    assert code == 0 and "1 of 1 images" in out


def test_safe_depth_is_drawn_as_inner_nodes(demo, project, tmp_path):
    key = "MODEL.HIERA_SEG.TEST.SAFE_DEPTH"
    code, _, _ = demo("--input", project / "images" / "a.jpg", "--opts", key, 2.0)
    ids = np.asarray(Image.open(tmp_path / "out" / "a-ids-class.png"))
    assert code == 0 and np.isin(ids, STREET.level_nodes(0)).all()


def test_the_last_checkpoint_of_the_run_is_used(demo, project, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    os.link(project / "weights.pth", run / "model_final.pth")
    (run / "last_checkpoint").write_text("model_final.pth")
    image = project / "images" / "a.jpg"
    code, out, _ = demo("--input", image, "--opts", "OUTPUT_DIR", run, weights=None)
    assert code == 0 and f"weights: {run / 'model_final.pth'}" in out


def one_error(code, out, err, expected_code, *parts):
    assert code == expected_code
    assert err.startswith("error: ") and err.count("\n") == 1
    assert all(part in err for part in parts), err


def test_one_unreadable_image_does_not_keep_the_others_from_being_drawn(demo, project, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image at all")
    result = demo("--input", tmp_path / "broken.jpg", project / "images" / "b.png")
    one_error(*result, 1, "broken.jpg")
    assert "1 of 2 images" in result[1] and (tmp_path / "out" / "b-levels.png").exists()


def test_bad_arguments(demo, project):
    image = ("--input", project / "images" / "a.jpg")
    one_error(*demo("--input", "nowhere/*.jpg"), 2, "nowhere/*.jpg", "no image")
    one_error(*demo("--input", project / "labels" / ".."), 2, "no image")
    one_error(*demo(*image, "--level", "groups"), 2, "'groups'", "group, kind, class")
    one_error(*demo(*image, "--alpha", 3), 2, "--alpha is 3")
    one_error(*demo("--dataset", NAME, "--num", 0), 2, "--num is 0")
    one_error(*demo("--dataset", "demo_street_tests"), 2, "'demo_street_tests'", NAME)
    one_error(*demo(), 2, "DATASETS.TEST is empty")
    one_error(*demo(*image, "--opts", "MODEL.NOTHING", 1), 2, "MODEL.NOTHING")
    one_error(*demo(*image, "--output", project / "config.yaml"), 2, "config.yaml")
    key = "MODEL.META_ARCHITECTURE"
    one_error(*demo(*image, "--opts", key, "SemanticSegmentor"), 2, key, "SemanticSegmentor")


def test_weights_that_can_not_be_used(demo, project, tmp_path):
    image = ("--input", project / "images" / "a.jpg")
    one_error(*demo(*image, weights=None), 1, "no weights", "MODEL.WEIGHTS", "run")
    one_error(*demo(*image, weights="none.pth"), 1, "none.pth")
    tree = ("--opts", "MODEL.HIERA_SEG.HIERARCHY", "lip")
    one_error(*demo(*image, *tree), 1, "do not fit", "sem_seg_head.predictor")
    one_error(*demo(*image, weights="backbone.pth"), 1, "no segmentation head")


def test_as_a_command():
    result = subprocess.run(
        [sys.executable, TOOL, "--config-file", "none.yaml", "--output", "out"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2 and result.stdout == ""
    assert "error: config file none.yaml" in result.stderr and "Traceback" not in result.stderr
