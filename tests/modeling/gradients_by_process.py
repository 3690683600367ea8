"""Compares the gradient of two gloo processes, one image each, with that of one with both.

Run by test_pixel_head.py: ``python gradients_by_process.py RANK FOLDER`` for ranks 0 and 1 writes
FOLDER/report.json.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor, nn

from hiera_seg import add_hiera_seg_config

LOSSES = [["focal_tree_min", 1.0], ["level_ce", 1.0], ["marginal_ce", 0.5]]


def config(norm: str) -> CfgNode:
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "HieraSegmentor"),
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
            *("MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.RESNETS.DEPTH", 50),
            *("MODEL.RESNETS.WIDTH_PER_GROUP", 8),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res4", "res5"]),
            *("MODEL.RESNETS.NORM", norm),
            *("MODEL.SEM_SEG_HEAD.NAME", "HieraPixelHead"),
            *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res5"]),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 16),
            *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 16),
            *("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8]),
            *("MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", 0.0),
            *("MODEL.SEM_SEG_HEAD.NORM", norm),
            *("MODEL.HIERA_SEG.HIERARCHY", "cityscapes"),
            *("MODEL.HIERA_SEG.LOSSES", LOSSES),
            *("MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4),
            *("MODEL.HIERA_SEG.AUXILIARY.DROPOUT", 0.0),
            *("MODEL.HIERA_SEG.AUXILIARY.NORM", norm),
        ]
    )
    return cfg


def model() -> nn.Module:
    torch.manual_seed(0)
    built = build_model(config("FrozenBN")).train()  # one that does not depend on the batch
    nn.init.normal_(built.sem_seg_head.predictor.weight, std=0.1)
    return built


def inputs() -> list[dict]:
    """Two images of very different numbers of valid pixels, some labelled with inner nodes."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for valid_rows in (60, 7):
        labels = torch.randint(26, (64, 64), generator=generator)
        labels[valid_rows:] = 255
        image = torch.randint(256, (3, 64, 64), generator=generator)
        samples.append({"image": image.to(torch.uint8), "sem_seg": labels})
    return samples


def gradient(network: nn.Module, samples: list[dict]) -> tuple[Tensor, dict[str, float]]:
    losses = network(samples)
    sum(losses.values()).backward()
    flat = torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad])
    return flat, {name: loss.item() for name, loss in losses.items()}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found, losses = gradient(model(), [inputs()[rank]])
    dist.all_reduce(found)
    found /= 2
    gathered: list = [None, None]
    dist.all_gather_object(gathered, losses)
    synced = build_model(config("SyncBN"))
    dist.destroy_process_group()
    if rank == 0:
        expected, losses_of_one = gradient(model(), inputs())
        report = {
            "difference": (found - expected).abs().max().item(),
            "largest": expected.abs().max().item(),
            "losses": {k: sum(g[k] for g in gathered) / 2 for k in losses},
            "losses_of_one": losses_of_one,
            "sync_batch_norms": sum(isinstance(m, nn.SyncBatchNorm) for m in synced.modules()),
        }
        (Path(folder) / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2])
