"""Keep an exponential moving average of a model's weights."""

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """A copy of a model with averaged weights.

    :meth:`update` sets ``average = decay * average + (1 - decay) * weights`` for parameters and
    floating-point buffers, such as the running statistics of batch norm, and copies other buffers.
    Checkpoints store the state of the averaged model under "ema".

    Args:
        model: without a DistributedDataParallel wrapper.
        decay: in [0, 1); 0.999 averages over about 1000 steps.

    Attributes:
        model: the averaged model, in eval mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._started = False

    def start(self, model: nn.Module) -> None:
        """Copy the weights of a model, unless an average was loaded from a checkpoint."""
        if not self._started:
            self.model.load_state_dict(model.state_dict())
            self._started = True

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of a model."""
        state, updated = model.state_dict(), set()
        for name, value in self.model.state_dict().items():
            if value.data_ptr() in updated:  # tied weights have several names
                continue
            updated.add(value.data_ptr())
            if value.is_floating_point():
                value.lerp_(state[name], 1 - self.decay)
            else:
                value.copy_(state[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)
        self._started = True
