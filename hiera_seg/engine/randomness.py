"""Seed, read and restore the random generators of a process."""

import logging
import random
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def with_seed(cfg: CfgNode) -> CfgNode:
    """Return the config, or if its SEED is below 0 a copy with a drawn one, equal on all ranks."""
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
    """Return the state of the generators of torch, numpy and random.

    The state includes the CUDA generator of the current device if the process uses CUDA. It has no
    numpy arrays, which torch.load with weights_only refuses.
    """
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "random": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state of :func:`get_random_state`."""
    torch.set_rng_state(state["torch"])
    if state.get("cuda") is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["random"])
