"""What several processes need around a model: averaged gradients, shared buffers, a check."""

import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiera_seg.compat import without_buffer_sync
from hiera_seg.errors import ConfigError


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model for gradient averaging where there are several processes.

    Raises:
        ConfigError: MODEL.DEVICE is not the GPU of this process, where each has one.
    """
    if comm.get_world_size() == 1:
        return model
    _check_device(model)
    on_gpu = next(model.parameters()).is_cuda
    device_ids = [comm.get_local_rank()] if on_gpu else None
    return DistributedDataParallel(model, device_ids=device_ids, **without_buffer_sync())


def share_buffers(model: nn.Module) -> None:
    """Give all processes the buffers of the first one, whose checkpoints hold them.

    Batch norm counts its running statistics in each process alone; evaluated so, a model would be
    another one for each process's images, and another one than the checkpoint.
    """
    if comm.get_world_size() > 1:
        _check_device(model)
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _check_device(model: nn.Module) -> None:
    device = next(model.parameters()).device
    if dist.get_backend() == "nccl" and device.index != comm.get_local_rank():
        raise ConfigError(
            f"the model is on {device}, but several processes on a machine with GPUs have one "
            'each: set MODEL.DEVICE "cuda", or hide the GPUs (CUDA_VISIBLE_DEVICES="")'
        )


class UnusedParameters(HookBase):
    """Refuses, after the first step, a model with parameters that no loss reaches.

    One process trains it all the same; gradients of several can not be averaged so, which torch
    says one step later, in a page that names no parameter.
    """

    def before_train(self) -> None:
        self._unused: set[str] = set()
        self._handles = []
        for name, parameter in self.trainer.model.named_parameters():
            if parameter.requires_grad:
                name = name.removeprefix("module.")
                self._unused.add(name)
                self._handles.append(parameter.register_hook(self._used(name)))

    def _used(self, name: str):
        def hook(gradient: Tensor) -> None:
            self._unused.discard(name)

        return hook

    def after_step(self) -> None:
        for handle in self._handles:
            handle.remove()
        if self._handles and self._unused:
            names = sorted(self._unused)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ConfigError(
                f"parameters {', '.join(names[:3])}{more} get no gradient from any loss, which "
                "training in several processes needs: leave the part away that holds them (such "
                "as a stage of the backbone in MODEL.RESNETS.OUT_FEATURES that no head reads)"
            )
        self._handles = []
