"""Average gradients and share buffers between processes; check that every parameter is used."""

import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hiera_seg.compat import without_buffer_sync
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy.messages import listing


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model in DistributedDataParallel if there are several processes.

    Raises:
        ConfigError: there are GPUs, and the model is not on the one of this process.
    """
    if comm.get_world_size() == 1:
        return model
    _check_device(model)
    on_gpu = next(model.parameters()).is_cuda
    device_ids = [comm.get_local_rank()] if on_gpu else None
    return DistributedDataParallel(model, device_ids=device_ids, **without_buffer_sync())


def share_buffers(model: nn.Module) -> None:
    """Copy the buffers of rank 0, which are those in the checkpoint, to all processes.

    Otherwise each rank would evaluate different running statistics of batch norm, most of them
    unlike the checkpoint.
    """
    if comm.get_world_size() > 1:
        _check_device(model)
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _check_device(model: nn.Module) -> None:
    device = next(model.parameters()).device
    if dist.get_backend() == "nccl" and device.index != comm.get_local_rank():
        raise ConfigError(
            f"the model is on {device}, but each process needs its own GPU; set MODEL.DEVICE to "
            '"cuda", or set CUDA_VISIBLE_DEVICES="" to run on the CPU'
        )


class UnusedParameters(HookBase):
    """Raise ConfigError after the first step if a parameter got no gradient.

    DistributedDataParallel cannot train such a model. Its own error comes one step later and names
    no parameter.
    """

    def after_step(self) -> None:
        if self.trainer.iter > self.trainer.start_iter:
            return
        parameters = self.trainer.model.named_parameters()
        unused = [name for name, p in parameters if p.requires_grad and p.grad is None]
        if unused:
            names = sorted(name.removeprefix("module.") for name in unused)
            raise ConfigError(
                f"parameters {listing(names, 3)} get no gradient from any loss, which "
                "several processes cannot train; remove the module that holds them, such as a "
                "stage in MODEL.RESNETS.OUT_FEATURES that no head uses"
            )
