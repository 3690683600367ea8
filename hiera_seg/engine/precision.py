"""Choose the precision of autocast by config and processor."""

import logging
import os
import time
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.nn.functional import conv2d

from hiera_seg.errors import ConfigError

logger = logging.getLogger(__name__)

# Flags of /proc/cpuinfo: bfloat16 products of AVX-512 and AMX on x86, and of ARM
_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Values of ONEDNN_MAX_CPU_ISA (oneDNN, "CPU Dispatcher Control") below AVX512_CORE_BF16
_ISA_WITHOUT = {
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"
}  # fmt: skip


def autocast_precision(cfg: CfgNode) -> torch.dtype | None:
    """Return the half precision of SOLVER.AMP on MODEL.DEVICE; None if AMP is disabled.

    Raises:
        ConfigError: an unknown PRECISION, or float16 on a CPU, where gradients are not scaled.
    """
    name, device_type = cfg.SOLVER.AMP.PRECISION, torch.device(cfg.MODEL.DEVICE).type
    if name not in ("auto", "bfloat16", "float16"):
        raise ConfigError(
            f'SOLVER.AMP.PRECISION is "{name}"; choose "auto", "bfloat16" or "float16"'
        )
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if name == "float16" and device_type != "cuda":
        raise ConfigError('SOLVER.AMP.PRECISION is "float16", which needs a GPU; use "auto"')
    if name == "auto":
        return automatic_precision(device_type)
    if name == "bfloat16" and device_type == "cpu" and comm.is_main_process():
        _warn_if_slow()
    return getattr(torch, name)


def automatic_precision(device_type: str) -> torch.dtype | None:
    """Return the precision of "auto": float16 on a GPU, as in Detectron2; on a CPU bfloat16 if the
    processor of the main process computes in it, else None, which is float32.
    """
    if device_type == "cuda":
        return torch.float16
    # All processes of a job need the same precision
    if comm.all_gather(computes_in_bfloat16())[0]:
        return torch.bfloat16
    if comm.is_main_process():
        logger.info("SOLVER.AMP: this processor has no bfloat16 arithmetic; training in float32")
    return None


def computes_in_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 numbers, and oneDNN may use it.

    Without /proc/cpuinfo, which is on Linux only, the answer is False.
    """
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if os.environ.get(name, "").upper() in _ISA_WITHOUT:
            return False
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = [line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "feat"))]
    return bool(_FLAGS & set(" ".join(flags).split()))


def bfloat16_time_ratio() -> float:
    """Measure the time of a small convolution in bfloat16 relative to float32, in about 0.2 s."""
    features = torch.ones(1, 32, 64, 64, requires_grad=True)
    weight = torch.ones(32, 32, 3, 3, requires_grad=True)

    def seconds(is_half: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            output = conv2d(features, weight, padding=1)
        torch.autograd.grad(output.float().sum(), (features, weight))
        return time.perf_counter() - start

    times = {is_half: [seconds(is_half) for _ in range(3)] for is_half in (False, True)}
    return min(times[True]) / min(times[False])


def _warn_if_slow() -> None:
    if computes_in_bfloat16():
        return
    ratio = bfloat16_time_ratio()
    if ratio > 1:
        logger.warning(
            "SOLVER.AMP.PRECISION is bfloat16, in which this processor has no arithmetic: a "
            f"convolution takes {ratio:.1f} times as long as in float32; set it to auto"
        )
