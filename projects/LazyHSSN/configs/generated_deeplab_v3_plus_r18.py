"""configs/Generated/hssn_deeplab_v3_plus_r18.yaml, HSSN on street scenes, as a LazyConfig."""

import sys
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicStem
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params

from hiera_seg import Hierarchy
from hiera_seg.data import (
    HieraDatasetMapper,
    build_hiera_test_loader,
    build_hiera_train_loader,
)
from hiera_seg.data.augmentations import RandomCropByCategory
from hiera_seg.engine.schedule import PolyParamScheduler
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.losses import HierarchicalLoss
from hiera_seg.modeling import (
    DeepLabV3PlusDecoder,
    EmbeddingHead,
    HieraPixelHead,
    HieraSegmentor,
)

sys.path.append(str(Path(__file__).resolve().parents[3]))  # the repository
from projects.GeneratedStreets import TREE  # noqa: E402  (registers the datasets)

VOID = 255
NORM = "BN"  # "SyncBN" for several GPUs
CROP = (192, 256)
PIXEL_MEAN = [123.675, 116.28, 103.53]
MAX_ITER = 800

hierarchy = L(Hierarchy.load)(source=str(TREE))  # a file, or the name of a built-in tree
datasets = {"train": "hiera_generated_train", "test": "hiera_generated_val"}

dataloader = {
    "train": L(build_hiera_train_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names="${datasets.train}", filter_empty=False, check_consistency=False
        ),
        mapper=L(HieraDatasetMapper)(
            is_train=True,
            hierarchy="${hierarchy}",
            ignore_label=VOID,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=(256,), sample_style="choice"),
                L(RandomCropByCategory)(
                    crop_type="absolute", crop_size=CROP, max_area=0.75, hierarchy="${hierarchy}"
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="RGB",
            pad_size=CROP,
            pad_value=PIXEL_MEAN,
        ),
        total_batch_size=4,
        num_workers=2,
        seed="${train.seed}",
    ),
    "test": L(build_hiera_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names="${datasets.test}", filter_empty=False, check_consistency=False
        ),
        mapper=L(HieraDatasetMapper)(
            is_train=False,
            hierarchy="${hierarchy}",
            ignore_label=VOID,
            augmentations=[],
            image_format="RGB",
        ),
        num_workers=2,
    ),
    "evaluator": L(HieraSemSegEvaluator)(
        dataset_name="${datasets.test}",
        output_dir="${train.output_dir}",
        hierarchy="${hierarchy}",
    ),
}

model = L(HieraSegmentor)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm=NORM),
        stages=L(ResNet.make_default_stages)(depth=18, norm=NORM),
        out_features=["res2", "res3", "res5"],
    ),
    sem_seg_head=L(HieraPixelHead)(
        hierarchy="${hierarchy}",
        pixel_decoder=L(DeepLabV3PlusDecoder)(
            input_shape={
                "res2": L(ShapeSpec)(channels=64, stride=4),
                "res3": L(ShapeSpec)(channels=128, stride=8),
                "res5": L(ShapeSpec)(channels=512, stride=32),
            },
            project_channels=[48, 64],
            decoder_channels=[128, 128, 128],
            aspp_dilations=[3, 6, 9],
            aspp_dropout=0.1,
            norm=NORM,
            use_depthwise_separable_conv=True,
        ),
        loss=L(HierarchicalLoss)(
            hierarchy="${hierarchy}",
            terms=[
                ("focal_tree_min", 1.0, {"gamma": 2.0, "normalize": "sum"}),
                ("tree_triplet", 1.0, L("builtins.dict")(schedule_iters="${train.max_iter}")),
            ],
            ignore_label=VOID,
        ),
        ignore_value=VOID,
        seed="${train.seed}",
        embedding_head=L(EmbeddingHead)(
            in_feature="res5", in_channels=512, hidden_channels=512, dim=128, norm=NORM
        ),
    ),
    pixel_mean=PIXEL_MEAN,
    pixel_std=[58.395, 57.12, 57.375],
)

optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),  # the model's, once built
    lr=0.07,
    momentum=0.9,
    weight_decay=1e-4,
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(PolyParamScheduler)(power=0.9),
    warmup_length=50 / MAX_ITER,
    warmup_factor=0.001,
)

# The keys of Detectron2's configs/common/train.py
train = {
    "output_dir": "output/lazy_hssn",
    "init_checkpoint": "",
    "max_iter": MAX_ITER,
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False},
    "checkpointer": {"period": 200, "max_to_keep": 100},
    "eval_period": 0,  # at the end alone
    "log_period": 20,
    "device": "cuda",  # the CPU is taken where there is no GPU
    "seed": 1,
}
