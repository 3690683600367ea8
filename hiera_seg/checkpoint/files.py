"""Reading checkpoint files of any origin, and saying what is wrong with those that are none."""

import codecs
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiera_seg.checkpoint.packages import local_path
from hiera_seg.checkpoint.unpickle import (
    NUMBERS,
    SWITCH,
    PlainUnpickler,
    RefusedPickle,
    unsafe_pickle_allowed,
)
from hiera_seg.config import CheckpointError

ZIP = b"PK"
# What torch.save began its files with before version 1.6: a pickled number
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# How torch names, in its versions' words, what weights_only=True refuses
REFUSED_BY_TORCH = re.compile(r"(?:GLOBAL|[Cc]lass) ([A-Za-z_][\w.]*)")
BEGINNINGS = {  # of files that are taken for weights
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"version https://git-lfs": "the pointer of a file that git-lfs has not fetched",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x89HDF": "an HDF5 file, of Keras or MATLAB",
}


def read_file(path: str | Path) -> Any:
    """Read what torch.save or pickle wrote, as far as it is plain data.

    Files of torch.save are read with ``weights_only=True``, others by :class:`PlainUnpickler`;
    which it is, the content says, not the name. After ``allow_unsafe_pickle()`` anything is
    unpickled.

    Args:
        path: a local file, or ``package://<package>/<file>``.

    Raises:
        CheckpointError: there is no such file, it is damaged or of another kind, or it names what
            could run code.
    """
    path = Path(local_path(path))
    try:
        return _read(path)
    except CheckpointError:
        raise
    except RefusedPickle as error:
        raise _refused(path, error.wanted) from error
    except OSError as error:
        raise CheckpointError(f"{path} can not be read: {error.strerror or error}") from error
    except Exception as error:  # reading what is no checkpoint ends in almost any error
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path} can not be read as a checkpoint: {_looks_like(path) or reason}"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint of any project.

    Args:
        path: a file that holds a dict of tensors or arrays by name, or such a dict under "model"
            or "state_dict"; see :func:`read_file`.

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: no such file, one that can not be read, or no tensors in it.
    """
    content = read_file(path)
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = _tensors(content) if isinstance(content, Mapping) else {}
    if not state:
        raise CheckpointError(
            f'{path} holds no tensors by name, neither at the top nor under "model" or "state_dict"'
        )
    return state


def as_tensor(value: Any) -> Tensor | None:
    """A tensor of a tensor or a numpy array or scalar; None of anything else."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in NUMBERS:
        return torch.from_numpy(np.array(value))
    return value if isinstance(value, Tensor) else None


def _tensors(content: Mapping) -> dict[str, Tensor]:
    found = {name: as_tensor(value) for name, value in content.items() if isinstance(name, str)}
    return {name: value for name, value in found.items() if value is not None}


def _read(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint file")
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint file {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes)")
    with path.open("rb") as file:
        head = file.read(len(LEGACY))
        file.seek(0)
        if head.startswith(ZIP):
            _check_archive(path)
            return _load_torch(path)
        if head.startswith(LEGACY):
            return _load_torch(path)
        if unsafe_pickle_allowed():
            return pickle.load(file, encoding="latin1")
        return PlainUnpickler(file).load()


def _check_archive(path: Path) -> None:
    """Raise unless a zip archive is whole and one that torch.save wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            inside = {name.partition("/")[2] for name in names}
            # torch itself does not look at the checksums
            damaged = archive.testzip() if "data.pkl" in inside else None
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is cut short or damaged: it is {path.stat().st_size} bytes long, and the list "
            "of contents at the end of such a file is missing; copy or download it again"
        ) from error
    if "constants.pkl" in inside:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint; weights are what torch.save "
            "writes of a state_dict"
        )
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} in it is wrong")
    if "data.pkl" not in inside:
        raise CheckpointError(
            f"{path} is a zip archive that torch.save did not write; it holds "
            f"{', '.join(names[:3]) or 'nothing'}{', ...' if len(names) > 3 else ''}"
        )


def _load_torch(path: Path) -> Any:
    if unsafe_pickle_allowed():
        return torch.load(path, map_location="cpu", weights_only=False)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = REFUSED_BY_TORCH.search(str(error))
        if found is None:
            raise
        wanted = found[1] if "." in found[1] else f"builtins.{found[1]}"
        raise _refused(path, wanted) from error


def _refused(path: Path, wanted: str) -> CheckpointError:
    advice = "if you trust whoever made it"
    if wanted.startswith(("torch._utils", "torch.storage", "torch._tensor")):
        advice = "tensors belong into a file of torch.save; if you trust whoever made this one"
    return CheckpointError(
        f"{path} wants {wanted}, which is no plain data and could run code, so it is not "
        f"unpickled; {advice}, add {SWITCH}"
    )


def _looks_like(path: Path) -> str:
    """What a file that is no checkpoint seems to be; "" where nothing is known."""
    with path.open("rb") as file:
        head = file.read(512)
    for start, kind in BEGINNINGS.items():
        if head.startswith(start):
            return f"it is {kind}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path):
        return "it is a safetensors file; save its tensors with torch.save"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # may end amid a character
    except UnicodeDecodeError:
        return ""
    if not all(c.isprintable() or c.isspace() for c in text):
        return ""
    if text.lstrip().startswith("<"):
        return "it is an html page, what a download that went wrong leaves"
    return f"it is a text file that begins with {text.strip().splitlines()[0][:40]!r}"
