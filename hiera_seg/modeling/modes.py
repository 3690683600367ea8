"""Switch a model to evaluation mode temporarily."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context manager that sets eval mode, without gradients and in full precision.

    Unlike Detectron2's ``inference_context``, it restores the mode of each module, also after an
    error.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # Older versions of torch keep the half-precision copies that autocast makes without
        # gradients, and a training step around this block would get none for these weights.
        device = next((parameter.device.type for parameter in model.parameters()), "cpu")
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
