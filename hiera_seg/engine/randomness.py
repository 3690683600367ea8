"""Random states: seeding from a place in the run, and keeping what generators were at."""

import logging
import random
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def with_seed(cfg: CfgNode) -> CfgNode:
    """The config, or where its SEED is below 0 a copy with a drawn one, alike in all processes."""
    if cfg.SEED >= 0:
        return cfg
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = int(comm.shared_random_seed())
    if frozen:
        cfg.freeze()
    logger.info(f"SEED was below 0: drew {cfg.SEED}")
    return cfg


def seed_everything(*key: int) -> None:
    """Seed torch, numpy and random from a tuple of integers, such as (seed, iteration, rank)."""
    words = np.random.SeedSequence(key).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))


def get_random_state() -> dict[str, Any]:
    """The state of torch's, numpy's and random's generators, as tensors and plain data.

    Of CUDA's generators that of the current device, where a process uses CUDA at all.

    Plain, because torch.load refuses numpy arrays unless it is told to trust the file.
    """
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "random": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`get_random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state.get("cuda") is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["random"])
