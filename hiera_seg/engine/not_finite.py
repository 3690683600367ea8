"""Describe a loss that is not finite, and write a dump to reproduce it."""

import math
import os
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from hiera_seg.disk import replace_file

_SHOWN = 8  # names in the message


def describe_failure(
    model: nn.Module,
    parts: list[list[dict]],
    losses: list[dict[str, float]],
    seed: int,
    iteration: int,
    folder: str,
    *,
    counts: torch.Tensor | None = None,
    precision: torch.dtype | None = None,
    states: list[dict[str, Any]],
) -> str:
    """Return which losses of this process are not finite, on which images; write a dump.

    The dump, ``not_finite_<iteration>_process_<rank>.pth``, holds what is needed to repeat the step
    (docs/training.md): "seed", "iteration", "process", "precision", the "batch" of the first bad
    part, its number "part", the "random_state" before it, the "counts" passed to the model, its
    "losses", and the state of the "model".

    Args:
        model: without a DistributedDataParallel wrapper, before the step changes its weights.
        parts: of the batch of this process, one or more.
        losses: of each part, by name.
        seed: seed of the run.
        iteration: iteration of the step.
        folder: folder of the dump.
        counts: passed to the model with the batch.
        precision: of autocast; None if it is disabled.
        states: of :func:`get_random_state` before each part.

    Returns:
        One line.
    """
    bad = next(i for i, row in enumerate(losses) if not _all_finite(row))
    terms = [f"{name} is {x}" for name, x in losses[bad].items() if not math.isfinite(x)]
    images = [str(sample.get("file_name", "without a name")) for sample in parts[bad]]
    line = f"the loss is not finite at iteration={iteration}: {', '.join(terms)}; "
    line += f"images: {_some(images)}; "
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if broken:  # an earlier step is the cause, not these images
        line += f"weights were not finite before it: {_some(broken)}; "
    path = os.path.join(folder, f"not_finite_{iteration}_process_{comm.get_rank()}.pth")
    dump = {
        "seed": seed,
        "iteration": iteration,
        "process": comm.get_rank(),
        "precision": precision,
        "counts": counts,
        "losses": losses[bad],
        "part": bad,
        "random_state": states[bad],
        "batch": [_plain(sample) for sample in parts[bad]],
        "model": model.state_dict(),
    }
    try:
        replace_file(path, lambda file: torch.save(dump, file))
    except OSError as error:
        return f"{line}its dump {path} could not be written: {error.strerror}"
    return f"{line}batch, losses and weights are in {path}"


def _all_finite(row: dict[str, float]) -> bool:
    return all(map(math.isfinite, row.values()))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _plain(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a sample that torch.load reads with weights_only."""
    return {k: v for k, v in sample.items() if isinstance(v, torch.Tensor | str | int | float)}
