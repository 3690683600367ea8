"""An exponential moving average of a model's weights."""

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """A copy of a model whose weights follow those of the model slowly.

    After each step ``average = decay * average + (1 - decay) * weights``, for parameters and for
    buffers of floating point (the running statistics of batch norm); other buffers are copied. A
    checkpoint that stores it under "ema" holds the state of the averaged model.

    Attributes:
        model: the averaged model, in eval mode and without gradients.
        decay: 0 or more and below 1; 0.999 looks back about 1000 steps.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: without a wrapper for several processes.
            decay: see the class.
        """
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._started = False

    def start(self, model: nn.Module) -> None:
        """Begin with the weights of a model, unless a checkpoint had an average."""
        if not self._started:
            self.model.load_state_dict(model.state_dict())
            self._started = True

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take a step towards the weights of a model."""
        state = model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(state[name], 1 - self.decay)
            else:
                value.copy_(state[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)
        self._started = True
