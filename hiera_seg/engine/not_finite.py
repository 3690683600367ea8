"""Describe a loss that is not finite, and write a dump to reproduce it."""

import math
import os
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from hiera_seg.disk import replace_file
from hiera_seg.hierarchy.messages import listing


def describe_failure(
    model: nn.Module,
    parts: list[list[dict]],
    losses: list[dict[str, float]],
    states: list[dict[str, Any]],
    folder: str,
    **settings: Any,
) -> str:
    """Return in one line which losses of this process are not finite, and write a dump.

    The dump, ``not_finite_<iteration>_process_<rank>.pth``, holds what is needed to repeat the step
    (docs/training.md): the settings of the step, "process", the "batch" of the first bad part, its
    number "part", the "random_state" before it, its "losses", and the state of the "model".

    Args:
        model: without a DistributedDataParallel wrapper, before the step changes its weights.
        parts: of the batch of this process, one or more.
        losses: of each part, by name.
        states: random state before each part.
        folder: folder of the dump.
        settings: "seed", "iteration", "precision" of autocast, and the "normalizer" of the losses
            that the model got with each part, None if it computed that of the part.
    """
    bad = next(i for i, row in enumerate(losses) if not all(map(math.isfinite, row.values())))
    terms = [f"{name} is {x}" for name, x in losses[bad].items() if not math.isfinite(x)]
    images = [str(sample.get("file_name", "without a name")) for sample in parts[bad]]
    iteration, rank = settings["iteration"], comm.get_rank()
    line = f"the loss is not finite at iteration={iteration}: {', '.join(terms)}; "
    line += f"images: {listing(images)}; "
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if broken:  # an earlier step is the cause, not these images
        line += f"weights were not finite before it: {listing(broken)}; "
    path = os.path.join(folder, f"not_finite_{iteration}_process_{rank}.pth")
    dump = settings | {
        "process": rank,
        "losses": losses[bad],
        "part": bad,
        "random_state": states[bad],
        "batch": [  # what torch.load reads with weights_only
            {k: v for k, v in sample.items() if isinstance(v, torch.Tensor | str | int | float)}
            for sample in parts[bad]
        ],
        "model": model.state_dict(),
    }
    try:
        replace_file(path, lambda file: torch.save(dump, file))
    except OSError as error:
        return f"{line}its dump {path} could not be written: {error.strerror}"
    return f"{line}batch, losses and weights are in {path}"
