"""Test that the code blocks of the how-to pages run, with the results that the pages state."""

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer

from hiera_seg.cli import load_config
from hiera_seg.data import HieraDatasetMapper, LabelReader, register_hierarchical_dataset
from hiera_seg.modeling import build_hierarchical_loss
from hiera_seg.modeling.build import build_model
from tests.helpers import (
    REPOSITORY,
    TOOLS,
    code_blocks,
    new_config,
    page_blocks,
    read_page,
    run_code,
    run_python,
    write_dataset,
)
from tests.tiny_street import SMALL_NETWORK, STREET


@pytest.mark.parametrize("page", ["docs/coarse_labels.md", "docs/decoding.md"])
def test_pages_that_check_themselves(page):
    names = run_code(page)  # its assertions are checks
    if page == "docs/decoding.md":
        assert names["coarse"].shape == names["fine"].shape == (500, 1000)


def test_a_mixture_reads_each_dataset_by_its_own_map(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, values in {"town": [[2, 5]], "motorway": [[20, 30]]}.items():
        label = np.array(values, dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        write_dataset(tmp_path / name, {"train/0": label})
    run_code("docs/several_datasets.md")
    cfg = new_config("INPUT.MIN_SIZE_TRAIN", (8,), "INPUT.RANDOM_FLIP", "none")
    first, repeated, _ = code_blocks("docs/several_datasets.md", "yaml")
    given = yaml.safe_load(first.replace("(", "[").replace(")", "]"))
    cfg.DATASETS.TRAIN = given["DATASETS"]["TRAIN"]
    assert repeated.count('"town_train"') == 3
    mapper = HieraDatasetMapper(cfg, True)
    found = {
        name: mapper(DatasetCatalog.get(name)[0])["sem_seg"][0].tolist()
        for name in cfg.DATASETS.TRAIN
    }
    tree = mapper.hierarchy
    assert found["town_train"] == [tree["car"]] * 8 + [tree["person"]] * 8
    assert found["motorway_train"] == [tree["vehicle"]] * 8 + [255] * 8


def test_own_parts_are_built_and_trained(tmp_path):
    parts = "\n\n".join(code_blocks("docs/own_parts.md", "python", "my_parts.py"))
    (tmp_path / "my_parts.py").write_text(parts, encoding="utf-8")
    (config,) = code_blocks("docs/own_parts.md", "yaml", "my_config.yaml")
    (tmp_path / "my_config.yaml").write_text(
        config.replace("_BASE_: configs", f"_BASE_: {REPOSITORY}/configs"), encoding="utf-8"
    )
    options = ("--import", "my_parts", "--config-file", "my_config.yaml", "--fast-dev-run")
    result = run_python(TOOLS / "train_net.py", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "1 iteration and an evaluation" in result.stdout


def test_a_train_net_with_three_changes_trains_and_evaluates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.random.default_rng(0).integers(0, 4, (2, 40, 48), dtype=np.uint8)
    name = "docs_train_net"
    roots = write_dataset(tmp_path, labels)
    for index, file in enumerate(sorted(Path(roots["sem_seg_root"]).glob("*.png"))):
        np.save(file.with_suffix(".npy"), labels[index])  # not readable by Detectron2's mapper
        file.unlink()
    register_hierarchical_dataset(name, hierarchy=STREET, **roots)
    config = code_blocks("docs/existing_train_net.md", "yaml")[0]
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (code,) = code_blocks("docs/existing_train_net.md", "python", "train_net.py")
    monkeypatch.setitem(sys.modules, "my_datasets", ModuleType("my_datasets"))
    names = run_code("docs/existing_train_net.md", code, names={"__name__": "train_net"})
    end = SMALL_NETWORK.index("INPUT.CROP.ENABLED")  # sizes and the network, no keys of training
    small = [
        *map(str, SMALL_NETWORK[:end]), "OUTPUT_DIR", str(tmp_path / "output"),
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
        "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
    ]  # fmt: skip
    parser = names["default_argument_parser"]()
    torch.manual_seed(0)
    names["main"](parser.parse_args(["--config-file", "config.yaml", *small]))
    results = json.loads((tmp_path / "output" / "hiera_metrics.json").read_text())["metrics"]
    assert {"mIoU", "mIoU_group", "mIoU_class"} <= set(results)


def test_the_yaml_of_a_train_net_builds_on_detectron2s_defaults(tmp_path):
    config = code_blocks("docs/existing_train_net.md", "yaml")[0]
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    cfg = load_config(str(tmp_path / "config.yaml"), ["MODEL.HIERA_SEG.HIERARCHY", "camvid"])
    for decoder in ("deeplab_v3_plus", "sep_aspp", "ocr"):
        cfg.MODEL.HIERA_SEG.PIXEL_DECODER = decoder
        assert build_model(cfg).hierarchy.name == "camvid"


def test_the_readmes_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, losses, dataset, coco, train_net = code_blocks("README.md", "python")
    run_code("README.md", dataset)
    reader = LabelReader.from_metadata(MetadataCatalog.get("street_val"))
    tree = reader.hierarchy
    assert reader.lookup(np.array([0, 1, 6])).tolist() == [255, tree["road"], tree["vehicle"]]

    categories = [{"id": 7, "name": "head", "supercategory": "person"}]
    (tmp_path / "parts/annotations").mkdir(parents=True)
    (tmp_path / "parts/annotations/train.json").write_text(
        json.dumps({"categories": categories, "images": [], "annotations": []})
    )
    run_code("README.md", coco)
    assert {*MetadataCatalog.get("parts_train").stuff_classes} == {"head", "background"}

    monkeypatch.setitem(sys.modules, "my_datasets", ModuleType("my_datasets"))
    names = {
        "get_cfg": get_cfg,
        "DefaultTrainer": DefaultTrainer,
        "build_detection_train_loader": build_detection_train_loader,
        "build_detection_test_loader": build_detection_test_loader,
    }
    run_code("README.md", train_net, names=names)
    assert "HIERA_SEG" in names["cfg"].MODEL

    names = {}
    run_code("README.md", losses, names=names)
    assert names["logits"].grad.abs().sum() > 0


def test_the_readmes_prediction_after_the_demo(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    importlib.import_module("projects.GeneratedStreets")
    monkeypatch.chdir(tmp_path)
    config = REPOSITORY / "configs/Generated/level_ce_deeplab_v3_plus_lite0.yaml"
    no_weights = ["MODEL.HIERA_SEG.TIMM.CHECKPOINT", "", "MODEL.HIERA_SEG.TIMM.PRETRAINED", False]
    cfg = load_config(str(config), no_weights)
    (tmp_path / "output/demo").mkdir(parents=True)
    (tmp_path / "output/demo/config.yaml").write_text(cfg.dump())
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "output/demo/model_final.pth")
    names: dict = {}
    run_code("README.md", code_blocks("README.md", "python")[0], names=names)
    result, tree = names["result"], model.hierarchy
    assert result["labels"].shape == names["image"].shape[:2]
    assert {*result["names"]} <= {*map(int, tree.level_nodes("group"))}
    assert (tree.node_names[33], tree.node_names[36]) == ("nature", "vehicle")  # as printed there


def test_the_flat_counterpart_of_the_tutorial_is_flat():
    options = re.findall(r'`(MODEL\.HIERA_SEG\.[A-Z_.]+) "(.*?)"`', read_page("docs/tutorial.md"))
    assert [key for key, _ in options] == [
        "MODEL.HIERA_SEG.LOSSES",
        "MODEL.HIERA_SEG.MARGINAL_CE.LEVEL_WEIGHTS",
    ]
    cfg = new_config(*(word for option in options for word in option))
    loss = build_hierarchical_loss(cfg, STREET, 255)
    logits = torch.randn(1, STREET.num_nodes, 5, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30).reshape(1, 5, 6) % STREET.num_leaves
    flat = torch.nn.functional.cross_entropy(logits[:, : STREET.num_leaves], labels)
    assert torch.allclose(loss(logits, labels)["loss_marginal_ce"], flat)


PAGES = ["README.md", *sorted(f"docs/{file.name}" for file in (REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_python_and_yaml_of_every_page_can_be_read_and_import_what_is_there(page):
    for kind, _, body in page_blocks(page):
        if kind == "yaml":
            yaml.safe_load(body)
        elif kind == "python":
            for node in ast.walk(ast.parse(body)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("hiera_seg"):
                    module = importlib.import_module(node.module)
                    for alias in node.names:
                        assert hasattr(module, alias.name), f"{node.module}: {alias.name}"


def test_the_panoptic_example_builds():
    page, features = "docs/existing_train_net.md", ["res2", "res3", "res4", "res5"]
    names = run_code(page)
    assert names["tree"].leaf_names[0] == "things"
    cfg = new_config()
    small = {"RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}, "DEVICE": "cpu", "WEIGHTS": ""}
    fpn = {"BACKBONE": {"NAME": "build_resnet_fpn_backbone"}, "FPN": {"IN_FEATURES": features}}
    small["RESNETS"]["OUT_FEATURES"] = features
    for keys in (small, fpn, yaml.safe_load(code_blocks(page, "yaml")[-1])["MODEL"]):
        cfg.merge_from_other_cfg(CfgNode({"MODEL": keys}))
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2"]
    cfg.DATASETS.TRAIN = ("my_panoptic_train",)
    model = build_model(cfg)
    assert type(model).__name__ == "PanopticFPN"
    assert model.sem_seg_head.hierarchy == names["tree"]
