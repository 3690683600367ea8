"""Read checkpoint files of any origin, and report why other files cannot be read."""

import codecs
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiera_seg.checkpoint.packages import local_path
from hiera_seg.checkpoint.torch_files import LEGACY, ZIP, check_archive, read_archive, read_legacy
from hiera_seg.checkpoint.unpickle import (
    NUMBERS,
    SWITCH,
    PlainUnpickler,
    RefusedPickle,
    UnfitPickle,
    unsafe_pickle_allowed,
)
from hiera_seg.errors import CheckpointError

EXPECTED = "a file of torch.save, a pickle of numpy arrays, or a safetensors file"
SAFETENSORS_HEADER = 100_000_000  # bytes; the longest that the format allows
BEGINNINGS = {  # of files that are mistaken for weights
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"version https://git-lfs": "the pointer of a file that git-lfs has not fetched",
}


def read_file(path: str | Path) -> Any:
    """Read the content of a checkpoint file as plain data.

    The format is recognized by the content, not by the name: a file of torch.save, a pickle of
    numpy arrays, or a safetensors file. Nothing that the file names is called, unless
    ``allow_unsafe_pickle()`` was called before.

    Args:
        path: a local file, or ``package://<package>/<file>``.

    Raises:
        CheckpointError: there is no such file, it is damaged or of another format, or it names
            something that could execute code; the message names the file.
    """
    path = Path(local_path(path))
    try:
        return _read(path)
    except CheckpointError:
        raise
    except RefusedPickle as error:
        raise _refused(path, error.wanted) from error
    except UnfitPickle as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # almost any error occurs when other files are read
        reason = _looks_like(path) or "not a checkpoint, or a damaged one"
        raise CheckpointError(f"{path}: {reason}; expected {EXPECTED}") from error


def read_checkpoint(path: str | Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint of any project.

    Args:
        path: a file with a dict of tensors or arrays by name, or such a dict under "model" or
            "state_dict"; see :func:`read_file`.
        averaged: prefer averaged weights, under timm's names for them.

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: there is no such file, it cannot be read, or it has no tensors.
    """
    content = read_file(path)
    for key in (*(("state_dict_ema", "model_ema") if averaged else ()), "model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = _tensors(content) if isinstance(content, Mapping) else {}
    if not state:
        raise CheckpointError(
            f'{path}: no tensors by name, neither at the top nor under "model" or "state_dict"; '
            "save model.state_dict()"
        )
    return state


def as_tensor(value: Any) -> Tensor | None:
    """Convert a tensor, numpy array or numpy scalar to a tensor; return None for anything else."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in NUMBERS:
        array = np.asarray(value, value.dtype.newbyteorder("="))
        try:
            return torch.from_numpy(array if array.flags.writeable else array.copy())
        except TypeError:  # unsigned integers that this version of torch lacks
            return None
    return value if isinstance(value, Tensor) else None


def misfit(found: Tensor, own: Tensor) -> str:
    """Return why a model's tensor cannot take the values of another one; "" if it can.

    Shapes are not compared. Without this check ``copy_`` would convert any type silently.
    """
    if found.layout != torch.strided or found.is_meta or found.is_quantized:
        return "is a sparse, quantized or meta tensor"
    kinds = f"is {_kind(found)} in the file, but {_kind(own)} in the model"
    if own.is_floating_point():
        if not found.is_floating_point():
            return kinds
        first = found[(0,) * found.dim()] if found.numel() else torch.zeros(())
        nothing = bool(first.float().isnan()) and bool(found.float().isnan().all())
        return "holds only NaN" if nothing else ""
    if own.is_complex() or not (found.is_complex() or found.is_floating_point()):
        return ""
    whole = not found.is_complex() and torch.equal(found.to(own.dtype).to(found.dtype), found)
    return "" if whole else kinds


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensors(content: Mapping) -> dict[str, Tensor]:
    found = {name: as_tensor(value) for name, value in content.items() if isinstance(name, str)}
    return {name: value for name, value in found.items() if value is not None}


def _read(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a checkpoint file; name a file in it")
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: empty (0 bytes); copy or download the file again")
    with path.open("rb") as file:
        head = file.read(len(LEGACY))
        file.seek(0)
        if head.startswith(ZIP):
            check_archive(path)
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= SAFETENSORS_HEADER:
            return _read_safetensors(path)
        if unsafe_pickle_allowed():
            if head.startswith((ZIP, LEGACY)):
                return torch.load(file, map_location="cpu", weights_only=False)
            return pickle.load(file, encoding="latin1")
        if head.startswith(ZIP):
            return read_archive(path)
        return read_legacy(file) if head == LEGACY else PlainUnpickler(file).load()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f"{path}: a safetensors file; reading it requires `pip install safetensors`"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: a safetensors file that is cut short or damaged ({path.stat().st_size} bytes "
            f"long: {error}); copy or download it again"
        ) from error


def _refused(path: Path, wanted: str) -> CheckpointError:
    advice = f"pass {SWITCH} if you trust this file"
    if wanted.startswith(("torch._utils", "torch.storage", "torch._tensor")):
        advice = f"tensors belong in a file of torch.save; {advice}"
    return CheckpointError(
        f"{path}: refusing to unpickle {wanted} (it could execute code); {advice}"
    )


def _looks_like(path: Path) -> str:
    """Guess the type of a file that is not a checkpoint; "" if unknown."""
    with path.open("rb") as file:
        head = file.read(512)
    for start, kind in BEGINNINGS.items():
        if head.startswith(start):
            return f"it is {kind}"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it"
    if zipfile.is_zipfile(path):
        return "it is a zip archive with other bytes before it"
    if head[:1] == b"\x80" and head[1] <= pickle.HIGHEST_PROTOCOL:
        return "it is a pickle that is cut short or damaged"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # it may end within a character
    except UnicodeDecodeError:
        return ""
    if not all(c.isprintable() or c.isspace() for c in text):
        return ""
    if text.lstrip().startswith("<"):
        return "it is an html page (a failed download?)"
    lines = text.strip().splitlines()
    return f"it is a text file that begins with {lines[0][:40]!r}" if lines else ""
