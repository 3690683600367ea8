"""Weights that anyone can make again, for tests that compare with other implementations."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def fill(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Tensors of given names and shapes: see tests/modeling/golden/README.md."""
    rng = np.random.default_rng(seed)
    state = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name.endswith(".num_batches_tracked") or name.startswith("criterion."):
            continue
        if name == "decode_head.step":  # a counter of HSSN's release
            continue
        if name.endswith(".running_mean"):
            value = np.zeros(shape, np.float32)
        elif name.endswith((".running_var", "weight")) and len(shape) < 2:
            value = np.ones(shape, np.float32)
        else:
            value = rng.standard_normal(shape, dtype=np.float32)
            scale = np.sqrt(1 / np.prod(shape[1:])) if len(shape) >= 2 else 0.01
            value = value * np.float32(scale)
        state[name] = torch.from_numpy(value)
    return state


def golden(
    network: str = "mask2former_r50_cityscapes_semantic",
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Weights of a public network for Cityscapes, an input, and what it computes of it."""
    shapes = json.loads((GOLDEN / f"{network}.json").read_text())
    with np.load(GOLDEN / f"{network}.npz") as file:
        outputs = {name: torch.from_numpy(file[name]) for name in file.files}
    seed = int(outputs.pop("seed"))
    images = np.random.default_rng(1000 + seed).standard_normal((1, 3, 96, 160), dtype=np.float32)
    return fill(shapes, seed), torch.from_numpy(images), outputs
