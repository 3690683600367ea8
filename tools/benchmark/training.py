"""Compare a training step with that of the same flat network in the stock meta-architecture."""

from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from benchmark.harness import Comparison
from benchmark.losses import cityscapes, street_labels
from hiera_seg import add_hiera_seg_config
from hiera_seg.compat import has_fused_kernel

_DEEP = {18: 64, 50: 256, 101: 256}  # channels of res2


def network_config(depth: int, crop: tuple[int, int], device: torch.device) -> CfgNode:
    """Return the config of a DeepLabV3+ on a ResNet that both sides share."""
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = _DEEP[depth]
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    head = cfg.MODEL.SEM_SEG_HEAD
    head.IN_FEATURES = ["res2", "res5"]
    head.PROJECT_FEATURES = ["res2"]
    head.PROJECT_CHANNELS = [48]
    head.COMMON_STRIDE = 4
    head.NORM = "BN"
    head.USE_DEPTHWISE_SEPARABLE_CONV = True
    head.LOSS_TYPE = "cross_entropy"
    head.NUM_CLASSES = cityscapes().num_leaves
    if depth == 18:
        head.CONVS_DIM = head.ASPP_CHANNELS = 128
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = list(crop)
    return cfg


def make_step(
    hierarchical: bool, depth: int, batch: int, crop, device, hidden: int = 0
) -> Callable[[], object]:
    """Forward, backward and a step of SGD on a made-up batch; SGD is fused where torch can.

    Args:
        hierarchical: the full HSSN loss (focal tree-min and triplet), or stock Detectron2.
        depth: of the ResNet.
        batch, crop: number of images, and their (height, width).
        device: where to run.
        hidden: channels within the embedding head; 0: as many as the backbone's last feature has,
            as in the paper.
    """
    torch.manual_seed(0)
    cfg = network_config(depth, crop, device)
    if hierarchical:
        cfg.MODEL.META_ARCHITECTURE = "HieraSegmentor"
        cfg.MODEL.SEM_SEG_HEAD.NAME = "HieraPixelHead"
        cfg.MODEL.HIERA_SEG.HIERARCHY = "cityscapes"
        cfg.MODEL.HIERA_SEG.EMBEDDING.HIDDEN_CHANNELS = hidden
        cfg.MODEL.HIERA_SEG.EMBEDDING.DIM = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    else:
        cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
        cfg.MODEL.SEM_SEG_HEAD.NAME = "DeepLabV3PlusHead"
    model = build_model(cfg).train()
    fused = has_fused_kernel(torch.optim.SGD) or None
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=fused)
    labels = street_labels((batch, *crop), cityscapes().num_leaves, torch.device("cpu"))
    images = torch.randint(0, 256, (batch, 3, *crop), dtype=torch.uint8)
    data = [
        {"image": image, "sem_seg": label, "height": crop[0], "width": crop[1]}
        for image, label in zip(images, labels, strict=True)
    ]

    def run():
        sum(model(data).values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


TRAINING = [
    Comparison(
        f"DeepLabV3+ R-{depth}, {batch} x {crop[0]} x {crop[1]}, focal_tree_min + triplet"
        + (f", embedding {hidden} wide" if hidden else ""),
        partial(make_step, True, depth, batch, crop, hidden=hidden),
        partial(make_step, False, depth, batch, crop),
        "stock SemanticSegmentor, flat cross entropy",
        max_time=time,
        max_memory=memory,
        from_start=True,
    )
    for depth, batch, crop, hidden, time, memory in (
        (18, 8, (192, 256), 0, 1.15, 1.10),
        (50, 2, (256, 512), 0, 1.05, 1.05),
        (50, 2, (256, 512), 256, 1.05, 1.05),
    )
]
