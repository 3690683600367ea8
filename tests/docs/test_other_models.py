"""Test the recipes of docs/existing_train_net.md with small models of the same interfaces."""

import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import ImageList
from torch import nn
from torch.nn import functional as F

from hiera_seg import add_hiera_seg_config
from tests.helpers import code_blocks

PAGE = "docs/existing_train_net.md"


class MaskClassifier(nn.Module):
    """Reads its inputs and targets as Mask2Former and MaskDINO do; one query per class."""

    def __init__(self, cfg):
        super().__init__()
        self.num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        self.layer = nn.Conv2d(3, self.num_classes, 1)
        self.device = torch.device("cpu")

    def forward(self, batched_inputs):
        images = [(x["image"].to(self.device).float() - 128) / 64 for x in batched_inputs]
        images = ImageList.from_tensors(images, 32)
        masks = self.layer(images.tensor)
        if not self.training:
            sizes = [(x["height"], x["width"]) for x in batched_inputs]
            return [
                {"sem_seg": F.interpolate(mask[None, :, :h, :w], size)[0].softmax(0)}
                for mask, (h, w), size in zip(masks, images.image_sizes, sizes, strict=True)
            ]
        targets = self.prepare_targets([x["instances"].to(self.device) for x in batched_inputs],
                                       images)  # fmt: skip
        losses = [
            F.binary_cross_entropy_with_logits(mask[target["labels"]], target["masks"].float())
            for mask, target in zip(masks, targets, strict=True)
        ]
        return {"loss_mask": torch.stack(losses).mean()}

    def prepare_targets(self, targets, images):
        height, width = images.tensor.shape[-2:]
        prepared = []
        for target in targets:
            assert target.gt_classes.max() < self.num_classes
            masks = torch.zeros(len(target), height, width, dtype=target.gt_masks.dtype)
            masks[:, : target.gt_masks.shape[1], : target.gt_masks.shape[2]] = target.gt_masks
            assert target.gt_boxes.tensor.shape == (len(target), 4)
            prepared.append({"labels": target.gt_classes, "masks": masks})
        return prepared


def add_maskformer2_config(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"


def add_one_former_config(cfg):
    cfg.DATASETS.TEST_SEMANTIC = ("",)
    cfg.MODEL.ONE_FORMER = CfgNode({"NUM_OBJECT_QUERIES": 8})
    cfg.MODEL.TEXT_ENCODER = CfgNode({"N_CTX": 2})


class TextReader(MaskClassifier):
    """Reads a task and texts as OneFormer does."""

    def forward(self, batched_inputs):
        assert all(x["task"] == "The task is semantic" for x in batched_inputs)
        if self.training:
            assert all(len(x["text"]) == 6 for x in batched_inputs)
        return super().forward(batched_inputs)


class OtherTrainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        raise AssertionError("the recipe replaces it")

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        raise AssertionError("the recipe replaces it")


@pytest.fixture
def run_recipe(tiny_dataset, monkeypatch, tmp_path):
    """Run the page's script beside a train_net of another repository; return the results."""

    def run(add_config, model, mapper=""):
        train_net = ModuleType("train_net")
        train_net.Trainer, train_net.get_cfg = OtherTrainer, get_cfg

        def main(args):
            cfg = train_net.get_cfg()
            add_config(cfg)
            cfg.merge_from_file(args.config_file)
            cfg.merge_from_list(args.opts)
            default_setup(cfg, args)
            trainer = train_net.Trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            return trainer.train()

        for module in (train_net, ModuleType("my_datasets")):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, model.__name__, model)
        (script,) = code_blocks(PAGE, "python", "train_on_tree.py")
        if mapper:  # "use this mapper in both loaders"
            (block,) = code_blocks(PAGE, "python", mapper)
            script = re.sub(r"HieraDatasetMapper\((cfg, \w+).*\)", r"OneFormerMapper(\1)", script)
            script = block + script
        exec(compile(script, PAGE, "exec"), {"__name__": "train_on_tree"})
        (tmp_path / "config.yaml").write_text(f"MODEL: {{META_ARCHITECTURE: {model.__name__}}}\n")
        options = [
            "--config-file", str(tmp_path / "config.yaml"), "MODEL.DEVICE", "cpu",
            "MODEL.WEIGHTS", "", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4", "SOLVER.MAX_ITER", "2",
            "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
            "DATASETS.TRAIN", f"('{tiny_dataset}',)", "DATASETS.TEST", f"('{tiny_dataset}',)",
            "TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 50.0, 51.0]]",  # returns the results
            "OUTPUT_DIR", str(tmp_path / "out"), "INPUT.MIN_SIZE_TRAIN", "(40,)",
        ]  # fmt: skip
        return main(default_argument_parser().parse_args(options))

    return run


def test_mask2former_is_trained_by_its_own_script(run_recipe, tmp_path):
    results = run_recipe(add_maskformer2_config, MaskClassifier)
    assert {"mIoU", "mIoU_group", "mIoU_class"} <= set(results["sem_seg"])
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["SOLVER"]["OPTIMIZER"] == "ADAMW"  # the other project's default


def test_one_former_reads_a_task_and_texts(run_recipe):
    results = run_recipe(add_one_former_config, TextReader, "one_former_mapper.py")
    assert {"mIoU", "mIoU_group", "mIoU_class"} <= set(results["sem_seg"])


def test_one_former_gets_a_text_per_class(tiny_dataset):
    names = {}
    (block,) = code_blocks(PAGE, "python", "one_former_mapper.py")
    exec(compile(block, PAGE, "exec"), names)
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    add_one_former_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (tiny_dataset,)
    record = DatasetCatalog.get(tiny_dataset)[0]
    sample = names["OneFormerMapper"](cfg, True)(record)
    texts = [f"a photo with a {x}" for x in ("road", "pavement", "car", "truck")]
    assert sample["text"] == [*texts, "a semantic photo", "a semantic photo"]
    assert np.array_equal(sample["instances"].gt_masks.any((1, 2)), [True] * 4)
    sample = names["OneFormerMapper"](cfg, False)(record)
    assert sample["task"] == "The task is semantic" and "text" not in sample


def test_point_rend_is_built_from_the_printed_config():
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    add_pointrend_config(cfg)
    (text,) = code_blocks(PAGE, "yaml", "point_rend.yaml")
    cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(text)))
    cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = "cpu", 18, 64
    model = build_model(cfg).eval()
    with torch.no_grad():
        (output,) = model([{"image": torch.zeros(3, 64, 64)}])
    assert output["sem_seg"].shape == (19, 64, 64)
