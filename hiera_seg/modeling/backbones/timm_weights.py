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
        timm: the package.
        net: the result of ``timm.create_model(name, features_only=True)``.
        name: the model's name in timm.
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
        filtered = _filter_foreign(timm, name, state, full)
        if filtered is not None:
            state = filtered
            missing, misfits = _compare(net, native, state)
    if misfits and in_channels != 3:  # the first convolution is for colours
        first = full.pretrained_cfg.get("first_conv") or ()
        for layer in [first] if isinstance(first, str) else first:
            weight = state.get(f"{layer}.weight")
            if isinstance(weight, Tensor) and weight.shape[1] == 3:
                state[f"{layer}.weight"] = timm.models.adapt_input_conv(in_channels, weight)
        missing, misfits = _compare(net, native, state)
    if missing or misfits:
        raise CheckpointError(
            f"{KEY}.CHECKPOINT: {path} does not fit {name}: "
            + "; ".join(filter(None, [_listed("missing", missing), _listed("", misfits)]))
        )
    net.load_state_dict({key: state[native[key]] for key in net.state_dict()}, strict=True)


def download_error(source: dict[str, Any], name: str, error: Exception) -> CheckpointError:
    """Return an error that names the file that timm failed to download, the reason, and a remedy.

    Args:
        source: timm's ``pretrained_cfg`` of the model.
        name: the model's name in timm.
        error: the error that timm raised.
    """
    remedy = f"set {KEY}.CHECKPOINT to a local copy, or {KEY}.PRETRAINED to False"
    if source.get("hf_hub_id"):
        file = source.get("hf_hub_filename") or "model.safetensors"
        wanted = f"{file} of https://huggingface.co/{source['hf_hub_id']}"
    elif source.get("url"):
        wanted = source["url"]
    else:
        return CheckpointError(f"timm has no weights for {name}; {remedy}")
    return CheckpointError(
        f"timm's weights for {name}: download of {wanted} failed ({_first_line(error)}); {remedy}"
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
) -> dict[str, Tensor] | None:
    module = importlib.import_module(timm.model_entrypoint(name).__module__)
    filter_fn = getattr(module, "checkpoint_filter_fn", None)
    if filter_fn is None:
        return None
    try:
        with torch.no_grad():
            return filter_fn(dict(state), full)
    except (KeyError, IndexError, ValueError, AttributeError, RuntimeError):
        return None  # an unknown file: the comparison reports what is missing


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what} {', '.join(names[:SHOWN])}{more}".strip()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
