"""Weights for timm's models: from a file with every tensor accounted for, or why there are none."""

import importlib
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hiera_seg.checkpoint import local_path, read_checkpoint
from hiera_seg.checkpoint.read import misfit
from hiera_seg.errors import CheckpointError
from hiera_seg.modeling.backbones import efficientnet_pytorch

KEY = "MODEL.HIERA_SEG.TIMM"
SHOWN = 5  # names in a message


def load_timm_file(
    timm: ModuleType, net: nn.Module, name: str, path: str, in_channels: int
) -> None:
    """Load a classifier's weights into timm's feature network of the same model, in place.

    Every parameter and buffer of the network has to be in the file; what the file has besides (the
    classifier, a stage that is not used) is left. Names of efficientnet-pytorch are translated;
    where others differ, timm's own filter for foreign files of that model is tried.

    Args:
        timm: the package.
        net: what ``timm.create_model(name, features_only=True)`` gave.
        name: of the model.
        path: a file, ``.pth`` or ``.safetensors``, local or ``package://<package>/<file>``.
        in_channels: of ``net``.

    Raises:
        CheckpointError: the file is not there, can not be read, or does not fit.
    """
    path = local_path(path)
    if not os.path.isfile(path):
        raise CheckpointError(f"{KEY}.CHECKPOINT is {path}; there is no such file")
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
    if missing or misfits:
        raise CheckpointError(
            f"{KEY}.CHECKPOINT is {path}, which does not fit {name}: "
            + "; ".join(filter(None, [_listed("missing", missing), _listed("", misfits)]))
        )
    net.load_state_dict({key: state[native[key]] for key in net.state_dict()}, strict=True)


def download_error(source: dict[str, Any], name: str, error: Exception) -> CheckpointError:
    """Say which file of weights timm wanted, why it did not come, and what to do.

    Args:
        source: timm's ``pretrained_cfg`` of the model.
        name: of the model.
        error: what timm raised.
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
        f"could not get timm's weights for {name}: {wanted} ({_first_line(error)}); {remedy}"
    )


def _native_names(net: nn.Module, full: nn.Module) -> dict[str, str]:
    """The name in the whole model of each entry of its feature network.

    timm's feature networks put a model's stages side by side ("stages.0" becomes "stages_0") or
    the whole model below "model".
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
        return None  # not a file it knows: the comparison says what is missing


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what} {', '.join(names[:SHOWN])}{more}".strip()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
