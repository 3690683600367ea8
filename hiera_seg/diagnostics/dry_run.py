"""Check a config before training: print what it resolves to, and the labels of one batch."""

import os
import tempfile

import numpy as np
from detectron2.config import CfgNode
from fvcore.nn import parameter_count_table
from tabulate import tabulate

from hiera_seg.checkpoint import local_path
from hiera_seg.checkpoint.checkpointer import split_query
from hiera_seg.config import resolve_hierarchy, resolve_ignore_label
from hiera_seg.config.resolve import changed_items
from hiera_seg.data import build_hiera_train_loader
from hiera_seg.engine.randomness import seed_everything
from hiera_seg.engine.trainer import HieraTrainer
from hiera_seg.errors import CheckpointError
from hiera_seg.hierarchy import Hierarchy


def dry_run(cfg: CfgNode) -> str:
    """Build everything that a training needs and read one batch, without training.

    No weights are read, and no files are written.

    Args:
        cfg: config of a training; not changed. A SEED below 0 is replaced by 0.

    Returns:
        A text with the changed config keys, the class tree, the parameters, the images of the first
        batch and, per level of the tree, the share of every class in its labels.

    Raises:
        ConfigError, DatasetError, HierarchyError, CheckpointError: those that a training would
            raise before its first step, except for the content of weights and for OUTPUT_DIR.
    """
    given, cfg = cfg, cfg.clone()
    cfg.defrost()
    cfg.SEED = max(cfg.SEED, 0)
    cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, 0)  # below 0 is an error
    seed_everything(cfg.SEED)
    hierarchy = resolve_hierarchy(cfg)
    weights = _find_weights(cfg)
    cfg.MODEL.HIERA_SEG.TIMM.PRETRAINED, cfg.MODEL.HIERA_SEG.TIMM.CHECKPOINT = False, ""
    with tempfile.TemporaryDirectory(prefix="hiera_seg_") as folder:
        cfg.OUTPUT_DIR = folder  # in which the trainer opens its metrics files
        trainer = HieraTrainer(cfg)
        for name in cfg.DATASETS.TEST:
            trainer.build_test_loader(cfg, name)
    loader = build_hiera_train_loader(cfg)
    batch = next(iter(loader))
    labels = np.concatenate([sample["sem_seg"].numpy().ravel() for sample in batch])

    total = sum(p.numel() for p in trainer.model.parameters())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    counts = f"{hierarchy.num_nodes} nodes, {hierarchy.num_leaves} leaves"
    images = tabulate(
        [(s["file_name"], "x".join(map(str, s["image"].shape))) for s in batch],
        ["image", "channels x height x width"],
    )
    sections = {
        "Config keys that differ from the defaults": "\n".join(
            f"{key}: {value!r}" for key, value in changed_items(given).items()
        ),
        f"Class tree: {counts}, {hierarchy.num_levels} levels": str(hierarchy),
        f"Parameters: {total:,}, {trained:,} of them trained": parameter_count_table(
            trainer.model, max_depth=2
        ),
        "Initial weights": weights,
        f"First batch: {len(batch)} of {len(loader.dataset)} training images": images,
        "Labels of that batch": label_shares(
            labels, hierarchy, resolve_ignore_label(cfg, hierarchy)
        ),
    }
    return "\n\n".join(f"== {title}\n{text}" for title, text in sections.items())


def label_shares(labels: np.ndarray, hierarchy: Hierarchy, ignore_label: int) -> str:
    """Format one table per level with the share of each class, in percent of all pixels.

    Classes without pixels are listed below each table. Labels are integers of any shape, node ids
    or the ignore label.
    """
    void = labels == ignore_label
    tables = []
    for level, name in enumerate(hierarchy.level_names):
        at_level = hierarchy.level_ancestor[level][labels[~void]]
        pixels = np.bincount(at_level[at_level >= 0], minlength=hierarchy.num_nodes)
        nodes = hierarchy.level_nodes(level)
        rows = [(hierarchy.display_names[v], pixels[v]) for v in nodes if pixels[v]]
        coarser = int((at_level < 0).sum())
        if coarser:
            rows.append(("(labeled at a coarser level)", coarser))
        rows.append(("(void)", int(void.sum())))
        shares = [(label, 100 * count / max(labels.size, 1)) for label, count in rows]
        table = tabulate(shares, [name, "share %"], floatfmt=".2f")
        absent = [hierarchy.display_names[v] for v in nodes if not pixels[v]]
        tables.append(f"{table}\nwithout pixels: {', '.join(absent)}" if absent else table)
    return "\n\n".join(tables)


def _find_weights(cfg: CfgNode) -> str:
    path, key, part = cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", ""
    timm = cfg.MODEL.HIERA_SEG.TIMM
    if not path and cfg.MODEL.BACKBONE.NAME == "build_hiera_timm_backbone":
        path, key, part = timm.CHECKPOINT, "MODEL.HIERA_SEG.TIMM.CHECKPOINT", " (backbone)"
        if not path and timm.PRETRAINED:
            return f"pretrained {timm.NAME} of timm (backbone), downloaded unless cached"
    if not path:
        return f"random ({key} is empty)"
    if key == "MODEL.WEIGHTS":
        path, _ = split_query(path)
    file = local_path(path)
    if key == "MODEL.WEIGHTS" and "://" in file:
        return f"{path}, downloaded when the training starts"
    if not os.path.isfile(file):
        raise CheckpointError(f"{path}: no such checkpoint file; check {key}")
    return f"{path}{part}, {os.path.getsize(file) / 1e6:.1f} MB"
