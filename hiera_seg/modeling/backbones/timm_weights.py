"""Load weights into timm's models from a file, and explain why a download failed."""

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hiera_seg.checkpoint import read_checkpoint
from hiera_seg.checkpoint.read import misfit
from hiera_seg.errors import CheckpointError
from hiera_seg.modeling.backbones import efficientnet_pytorch

KEY = "MODEL.HIERA_SEG.TIMM"
SHOWN = 5  # names in a message


def load_timm_file(
    timm: ModuleType, net: nn.Module, name: str, path: str, in_channels: int
) -> None:
    """Load a classifier's weights into timm's feature network of the same model, in place.

    Every parameter and buffer of the network must be in the file; its other tensors (those of the
    classifier or of unused stages) are ignored. Names of efficientnet-pytorch are translated; for
    other foreign names, timm's own filter for files of that model is tried.

    Args:
        net: the result of ``timm.create_model(name, features_only=True)``.
        path: a file, ``.pth`` or ``.safetensors``, local or ``package://<package>/<file>``.
        in_channels: number of input channels of ``net``; timm adapts the first convolution.

    Raises:
        CheckpointError: the file does not exist, cannot be read, or does not fit.
    """
    try:
        state = timm.models.clean_state_dict(read_checkpoint(path, averaged=True))
    except CheckpointError as error:
        raise CheckpointError(f"{KEY}.CHECKPOINT: {error}") from error
    full = timm.create_model(name, pretrained=False, in_chans=in_channels)
    native = _native_names(net, full)
    if efficientnet_pytorch.MARK in state:
        state = efficientnet_pytorch.translate(state, full.state_dict(), path)
    missing, misfits = _compare(net, native, state)
    if missing or misfits:
        state = _filter_foreign(timm, name, state, full)
        missing, misfits = _compare(net, native, state)
    if misfits and in_channels != 3:  # the first convolution is for colours
        first = full.pretrained_cfg.get("first_conv") or ()
        for layer in [first] if isinstance(first, str) else first:
            weight = state.get(f"{layer}.weight")
            if isinstance(weight, Tensor) and weight.shape[1] == 3:
                state[f"{layer}.weight"] = timm.models.adapt_input_conv(in_channels, weight)
        missing, misfits = _compare(net, native, state)
    problems = [f"{tensor} is missing" for tensor in missing] + misfits
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(
            f"{KEY}.CHECKPOINT: {path} does not fit {name}: {'; '.join(problems[:SHOWN])}{more}"
        )
    net.load_state_dict({key: state[native[key]] for key in net.state_dict()}, strict=True)


def download_error(source: dict[str, Any], name: str, error: Exception) -> CheckpointError:
    """Return an error that names the file of timm's ``pretrained_cfg``, the reason and a remedy."""
    remedy = f"set {KEY}.CHECKPOINT to a local copy, or {KEY}.PRETRAINED to False"
    if source.get("hf_hub_id"):
        file = source.get("hf_hub_filename") or "model.safetensors"
        wanted = f"{file} of https://huggingface.co/{source['hf_hub_id']}"
    elif source.get("url"):
        wanted = source["url"]
    else:
        return CheckpointError(f"timm has no weights for {name}; {remedy}")
    reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    return CheckpointError(
        f"timm's weights for {name}: download of {wanted} failed ({reason}); {remedy}"
    )


def _native_names(net: nn.Module, full: nn.Module) -> dict[str, str]:
    """Return the name in the whole model for each entry of its feature network.

    timm's feature networks flatten a model's stages ("stages.0" becomes "stages_0"), or put the
    whole model into "model" or "body".
    """
    known = set(full.state_dict())
    renamed = {}
    for name in known:
        stage, _, rest = name.partition(".")
        index, _, rest = rest.partition(".")
        renamed[f"{stage}_{index}.{rest}"] = name
        renamed[f"model.{name}"] = name
        renamed[f"body.{name}"] = name
    return {key: key if key in known else renamed.get(key, key) for key in net.state_dict()}


def _compare(
    net: nn.Module, native: dict[str, str], state: dict[str, Tensor]
) -> tuple[list[str], list[str]]:
    missing, misfits = [], []
    for key, value in net.state_dict().items():
        found = state.get(native[key])
        if not isinstance(found, Tensor):
            missing.append(native[key])
        elif found.shape != value.shape:
            misfits.append(
                f"{native[key]} is {tuple(found.shape)} in the file, {tuple(value.shape)} in the "
                "model"
            )
        elif reason := misfit(found, value):
            misfits.append(f"{native[key]} {reason}")
    return missing, misfits


def _filter_foreign(
    timm: ModuleType, name: str, state: dict[str, Tensor], full: nn.Module
) -> dict[str, Tensor]:
    """Return the result of timm's filter for files of the model, or the state if there is none."""
    module = importlib.import_module(timm.model_entrypoint(name).__module__)
    try:
        with torch.no_grad():
            return module.checkpoint_filter_fn(dict(state), full)
    except (KeyError, IndexError, ValueError, AttributeError, RuntimeError):
        return state  # an unknown file: the comparison reports what is missing
