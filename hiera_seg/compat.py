"""The only module that knows one Detectron2, or one torch, from another.

Detectron2 0.6 (the last release) and main differ in a few places that matter here:

- 0.6 reads ``WarmupPolyLR`` from its DeepLab project, an old-style scheduler that keeps MAX_ITER in
  its state; main keeps the class too. Neither is used: see :mod:`hiera_seg.engine.schedule`.
- ``SimpleTrainer`` draws its data iterator when it is made (0.6) or when first used (main), and
  main's gathers the metrics every few steps only.
- ``evaluation.SemSegEvaluator`` of main adds boundary IoU and counts absent classes differently.

Code elsewhere asks the functions below instead of looking at version numbers.
"""

import importlib.util

import torch

INSTALL_HINT = (
    "Detectron2 is not installed: run `python tools/install_detectron2.py` from a checkout of "
    "hiera_seg, or install it as its own documentation says"
)


def require_detectron2() -> None:
    """Check that Detectron2 can be imported.

    Raises:
        ImportError: it can not; the message says how to install it.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise ImportError(INSTALL_HINT)


def grad_scaler(device_type: str, enabled: bool) -> torch.amp.GradScaler:
    """A gradient scaler for a device type: ``torch.amp.GradScaler`` came with torch 2.3."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device_type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled and device_type == "cuda")
