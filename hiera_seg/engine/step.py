"""One optimisation step."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import nn

from hiera_seg.compat import grad_scaler
from hiera_seg.engine.randomness import seed_everything


class HieraTrainStep(SimpleTrainer):
    """One optimisation step, in full or mixed precision, whose random draws follow from its place.

    Dropout and the sampling in losses draw from generators seeded by (seed, iteration, process),
    so that an iteration does the same whether or not the run was interrupted before it.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        device_type: str,
        precision: torch.dtype | None,
        seed: int,
    ):
        """
        Args:
            model: takes a batch and returns a dict of losses.
            data_loader: gives batches.
            optimizer: steps the parameters of the model.
            device_type: "cpu" or "cuda".
            precision: what torch.autocast computes in, torch.float16 with scaled gradients; None
                for full precision throughout.
            seed: the seed of the run.
        """
        super().__init__(model, data_loader, optimizer)
        self.device_type = device_type
        self.precision = precision
        self.seed = seed
        # float16 underflows without a scale; bfloat16 has float32's range
        self.grad_scaler = grad_scaler(device_type, enabled=precision == torch.float16)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        seed_everything(self.seed, self.iter, comm.get_rank())
        enabled = self.precision is not None
        with torch.autocast(self.device_type, dtype=self.precision, enabled=enabled):
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, data_time)  # raises where a loss is not finite
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.grad_scaler.load_state_dict(state["grad_scaler"])
