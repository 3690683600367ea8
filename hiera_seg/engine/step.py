"""Run one optimization step."""

import contextlib
import logging
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiera_seg.compat import after_backward, grad_scaler
from hiera_seg.data.loader import skipped_of
from hiera_seg.engine.ema import WeightAverage
from hiera_seg.engine.not_finite import describe_failure
from hiera_seg.engine.randomness import get_random_state, seed_everything
from hiera_seg.modeling.heads.loss import mean_over_processes

Losses = dict[str, Tensor]


class HieraTrainStep(SimpleTrainer):
    """Run one optimization step at a time, in full or mixed precision.

    The generators of dropout and of sampling in losses are seeded by (seed, iteration, rank). An
    iteration of a resumed run therefore equals that of an uninterrupted one.

    Args:
        model: takes a batch and returns a dict of losses.
        data_loader: yields batches.
        optimizer: of the parameters of the model.
        device_type: "cpu" or "cuda".
        precision: dtype of torch.autocast; gradients are scaled for torch.float16. None disables
            autocast.
        seed: the seed of the run.
        accumulation_steps: number of parts of equal size in which a batch goes through the model.
        average: average of the weights, updated by every step.
        dump_folder: folder for the dump of a step whose loss is not finite.

    Attributes:
        skipped: number of samples, over all processes, that could not be read and were replaced
            so far (DATALOADER.ON_ERROR).
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
        accumulation_steps: int = 1,
        average: WeightAverage | None = None,
        dump_folder: str = ".",
    ):
        super().__init__(model, data_loader, optimizer)
        self.device_type = device_type
        self.precision = precision
        self.seed = seed
        self.accumulation_steps = accumulation_steps
        self.average = average
        self.dump_folder = dump_folder
        self.skipped = 0
        # float16 underflows without a scale; bfloat16 has float32's range
        self.grad_scaler = grad_scaler(device_type, enabled=precision == torch.float16)

    def run_step(self) -> None:
        """Read a batch, step the optimizer, log the losses.

        Raises:
            FloatingPointError: on all processes, if the loss of any process is not finite. The
                weights are not changed.
        """
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        seed_everything(self.seed, self.iter, comm.get_rank())
        self.optimizer.zero_grad()
        size = len(data) // self.accumulation_steps
        parts = [data[i : i + size] for i in range(0, len(data), size)]
        normalizer = _mean_normalizer(plain_model(self.model), parts) if len(parts) > 1 else None
        losses, states = self._backward(parts, normalizer)
        after_backward(self)
        self._log(parts, losses, states, normalizer, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.average is not None:
            self.average.update(plain_model(self.model))

    def _backward(
        self, parts: list[list[dict]], normalizer: Tensor | None
    ) -> tuple[list[Losses], list[dict[str, Any]]]:
        """Accumulate the gradients of the parts; return the losses and random state of each.

        Every part divides its sums over pixels by the mean of all parts, and its gradient by the
        number of parts, so the accumulated gradient equals that of the full batch.
        """
        options = {} if normalizer is None else {"normalizer": normalizer}
        losses, states = [], []
        for part in parts:
            states.append(get_random_state())
            last = len(losses) == len(parts) - 1
            with contextlib.ExitStack() as stack:
                if not last and isinstance(self.model, DistributedDataParallel):
                    stack.enter_context(self.model.no_sync())  # average gradients once per step
                with torch.autocast(
                    self.device_type, dtype=self.precision, enabled=self.precision is not None
                ):
                    found = self.model(part, **options)
                self.grad_scaler.scale(sum(found.values()) / len(parts)).backward()
            losses.append({name: value.detach() for name, value in found.items()})
        return losses, states

    def _log(
        self,
        parts: list[list[dict]],
        losses: list[Losses],
        states: list[dict[str, Any]],
        normalizer: Tensor | None,
        data_time: float,
    ) -> None:
        """Log the losses, averaged over parts and processes, on the main process."""
        names = list(losses[0])
        stacked = torch.stack([found[name].double() for found in losses for name in names])
        values = stacked.view(len(losses), len(names)).tolist()  # a single device synchronization
        found = [dict(zip(names, row, strict=True)) for row in values]
        failure = None
        if not all(math.isfinite(value) for row in values for value in row):
            failure = describe_failure(
                plain_model(self.model), parts, found, states, self.dump_folder, seed=self.seed,
                iteration=self.iter, precision=self.precision, normalizer=normalizer,
            )  # fmt: skip
        own = {
            "losses": {name: sum(row[name] for row in found) / len(found) for name in names},
            "data_time": data_time,
            "skipped": sum(bool(skipped_of(sample)) for part in parts for sample in part),
            "failure": failure,
        }
        every = comm.all_gather(own)
        for process in every:  # all processes raise, or the others would wait forever
            if process["failure"]:
                raise FloatingPointError(process["failure"])
        self.skipped += sum(process["skipped"] for process in every)
        if not comm.is_main_process():
            return
        means = {name: sum(p["losses"][name] for p in every) / len(every) for name in names}
        storage = get_event_storage()
        storage.put_scalar("data_time", max(process["data_time"] for process in every))
        storage.put_scalar("total_loss", sum(means.values()))
        if len(means) > 1:
            storage.put_scalars(**means)
        if self.skipped:
            storage.put_scalar("skipped_samples", self.skipped, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}
        return {**state, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state["grad_scaler"]:  # empty if the run did not scale gradients so far
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        self.skipped = state.get("skipped", 0)  # absent in old checkpoints


def plain_model(model: nn.Module) -> nn.Module:
    """Return the model without its DistributedDataParallel wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _mean_normalizer(model: nn.Module, parts: list[list[dict]]) -> Tensor | None:
    """Average the normalizers of the losses over parts and processes; None if there are none."""
    of_model = getattr(model, "label_normalizer", lambda part: None)
    normalizers = [of_model(part) for part in parts]
    if normalizers[0] is None:
        log_first_n(
            logging.WARNING,
            f"SOLVER.ACCUMULATION_STEPS: {type(model).__name__} averages the loss of each part by "
            "itself, so parts with much void count as much as others; use a HieraSegmentor with a "
            "head that has label_normalizer for the gradient of the whole batch",
            name=__name__,
        )
        return None
    return mean_over_processes(torch.stack(normalizers).mean(0))
