"""The code blocks of the how-to pages run, and do what the pages say."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from PIL import Image

from hiera_seg import Hierarchy, add_hiera_seg_config
from hiera_seg.cli import load_config
from hiera_seg.data import HieraDatasetMapper, LabelReader, register_hierarchical_dataset
from hiera_seg.modeling import build_hierarchical_loss
from hiera_seg.modeling.build import build_model

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', flags=re.MULTILINE | re.DOTALL)

FEATURES = ["res2", "res3", "res4", "res5"]


def blocks(page: str, kind: str, title: str = "") -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [body for k, t, body in BLOCK.findall(text) if (k, t) == (kind, title)]


def run_blocks(page: str) -> dict:
    """Run the page's Python in one namespace; it checks itself by assertions."""
    names: dict = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", ["docs/coarse_labels.md", "docs/decoding.md"])
def test_pages_that_check_themselves(page):
    names = run_blocks(page)
    if page == "docs/decoding.md":
        assert names["coarse"].shape == names["fine"].shape == (500, 1000)


@pytest.fixture
def mixture(tmp_path, monkeypatch):
    """Two folders as docs/several_datasets.md has them, registered by its code."""
    monkeypatch.chdir(tmp_path)
    for name, values in {"town": [[2, 5]], "motorway": [[20, 30]]}.items():
        for folder, mode in (("images", "RGB"), ("labels", "L")):
            (tmp_path / name / folder / "train").mkdir(parents=True)
            picture = Image.fromarray(np.array(values, dtype=np.uint8).repeat(8, 0).repeat(8, 1))
            picture.convert(mode).save(tmp_path / name / folder / "train" / "0.png")
    names = run_blocks("docs/several_datasets.md")
    yield names
    for name in ("town_train", "motorway_train", "town_val", "motorway_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_mixture_reads_each_dataset_by_its_own_map(mixture):
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    first, repeated, _ = blocks("docs/several_datasets.md", "yaml")
    cfg.DATASETS.TRAIN = yaml.safe_load(first.replace("(", "[").replace(")", "]"))["DATASETS"][
        "TRAIN"
    ]
    assert repeated.count('"town_train"') == 3
    cfg.INPUT.MIN_SIZE_TRAIN = (8,)
    cfg.INPUT.RANDOM_FLIP = "none"
    mapper = HieraDatasetMapper(cfg, True)
    found = {
        name: mapper(DatasetCatalog.get(name)[0])["sem_seg"][0].tolist()
        for name in cfg.DATASETS.TRAIN
    }
    tree = mapper.hierarchy
    assert found["town_train"] == [tree["car"]] * 8 + [tree["person"]] * 8
    assert found["motorway_train"] == [tree["vehicle"]] * 8 + [255] * 8


def test_own_parts_are_built_and_trained(tmp_path):
    parts = "\n\n".join(blocks("docs/own_parts.md", "python", "my_parts.py"))
    (tmp_path / "my_parts.py").write_text(parts, encoding="utf-8")
    (config,) = blocks("docs/own_parts.md", "yaml", "my_config.yaml")
    (tmp_path / "my_config.yaml").write_text(
        config.replace("_BASE_: configs", f"_BASE_: {REPOSITORY}/configs"), encoding="utf-8"
    )
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools/train_net.py"), "--import", "my_parts",
         "--config-file", "my_config.yaml", "--fast-dev-run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "1 iteration and an evaluation" in result.stdout


TREE = {"flat": {"road": None, "pavement": None}, "vehicle": {"car": None, "truck": None}}


def test_a_train_net_with_three_changes_trains_and_evaluates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(2):
        image = Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8))
        image.save(tmp_path / "images" / f"{index}.png")
        labels = Image.fromarray(rng.integers(0, 4, (40, 48), dtype=np.uint8))
        labels.save(tmp_path / "labels" / f"{index}.png")
    name = "docs_train_net"
    register_hierarchical_dataset(name, hierarchy=TREE, image_root="images", sem_seg_root="labels")
    config = blocks("docs/existing_train_net.md", "yaml")[0]
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (code,) = blocks("docs/existing_train_net.md", "python", "train_net.py")
    monkeypatch.setitem(sys.modules, "my_datasets", ModuleType("my_datasets"))
    names = {"__name__": "train_net"}
    exec(compile(code, "train_net.py", "exec"), names)
    small = [
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", "18",
        "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", "0",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16", "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "16",
        "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", "[1, 2, 3]", "SOLVER.MAX_ITER", "2",
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
        "INPUT.MIN_SIZE_TRAIN", "(40,)", "INPUT.MIN_SIZE_TEST", "40", "SOLVER.IMS_PER_BATCH", "2",
        "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "output"),
    ]  # fmt: skip
    parser = names["default_argument_parser"]()
    torch.manual_seed(0)
    try:
        names["main"](parser.parse_args(["--config-file", "config.yaml", *small]))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    results = json.loads((tmp_path / "output" / "hiera_metrics.json").read_text())["metrics"]
    assert {"mIoU", "mIoU_level_0", "mIoU_level_1"} <= set(results)


def test_the_yaml_of_a_train_net_builds_on_detectron2s_defaults(tmp_path):
    config = blocks("docs/existing_train_net.md", "yaml")[0]
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    cfg = load_config(str(tmp_path / "config.yaml"), ["MODEL.HIERA_SEG.HIERARCHY", "camvid"])
    for decoder in ("deeplab_v3_plus", "sep_aspp", "ocr"):
        cfg.MODEL.HIERA_SEG.PIXEL_DECODER = decoder
        assert build_model(cfg).hierarchy.name == "camvid"


def test_the_readmes_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses, dataset, train_net = blocks("README.md", "python")
    exec(compile(dataset, "README.md", "exec"), {})
    try:
        reader = LabelReader.from_metadata(MetadataCatalog.get("street_val"))
        tree = reader.hierarchy
        assert reader.lookup(np.array([0, 1, 6])).tolist() == [255, tree["road"], tree["vehicle"]]
    finally:
        for name in ("street_train", "street_val"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)

    monkeypatch.setitem(sys.modules, "my_datasets", ModuleType("my_datasets"))
    names = {
        "get_cfg": get_cfg,
        "DefaultTrainer": DefaultTrainer,
        "build_detection_train_loader": build_detection_train_loader,
    }
    exec(compile(train_net, "README.md", "exec"), names)
    assert "HIERA_SEG" in names["cfg"].MODEL

    names = {"logits": torch.zeros(1, 26, 4, 4), "labels": torch.zeros(1, 4, 4, dtype=torch.long)}
    exec(compile(losses, "README.md", "exec"), names)
    assert names["loss"] > 0


def test_the_flat_counterpart_of_the_tutorial_is_flat():
    text = (REPOSITORY / "docs/tutorial.md").read_text(encoding="utf-8")
    options = re.findall(r'`(MODEL\.HIERA_SEG\.[A-Z_.]+) "(.*?)"`', text)
    assert [key for key, _ in options] == [
        "MODEL.HIERA_SEG.LOSSES",
        "MODEL.HIERA_SEG.MARGINAL_CE.LEVEL_WEIGHTS",
    ]
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    cfg.merge_from_list([word for option in options for word in option])
    tree = Hierarchy.from_dict(TREE)
    loss = build_hierarchical_loss(cfg, tree, 255)
    logits = torch.randn(1, tree.num_nodes, 5, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30).reshape(1, 5, 6) % tree.num_leaves
    flat = torch.nn.functional.cross_entropy(logits[:, : tree.num_leaves], labels)
    assert torch.allclose(loss(logits, labels)["loss_marginal_ce"], flat)


PAGES = ["README.md", *sorted(f"docs/{file.name}" for file in (REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_python_and_yaml_of_every_page_can_be_read_and_import_what_is_there(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for kind, _, body in BLOCK.findall(text):
        if kind == "yaml":
            yaml.safe_load(body)
        elif kind == "python":
            for node in ast.walk(ast.parse(body)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("hiera_seg"):
                    module = importlib.import_module(node.module)
                    for alias in node.names:
                        assert hasattr(module, alias.name), f"{node.module}: {alias.name}"


def test_the_panoptic_example_builds():
    page, name = "docs/existing_train_net.md", "my_panoptic_train"
    names = run_blocks(page)
    try:
        assert names["tree"].leaf_names[0] == "things"
        cfg = get_cfg()
        add_hiera_seg_config(cfg)
        small = {"RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}, "DEVICE": "cpu", "WEIGHTS": ""}
        fpn = {"BACKBONE": {"NAME": "build_resnet_fpn_backbone"}, "FPN": {"IN_FEATURES": FEATURES}}
        small["RESNETS"]["OUT_FEATURES"] = FEATURES
        for keys in (small, fpn, yaml.safe_load(blocks(page, "yaml")[-1])["MODEL"]):
            cfg.merge_from_other_cfg(CfgNode({"MODEL": keys}))
        cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2"]
        cfg.DATASETS.TRAIN = (name,)
        model = build_model(cfg)
        assert type(model).__name__ == "PanopticFPN"
        assert model.sem_seg_head.hierarchy == names["tree"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
