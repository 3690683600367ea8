"""Reading checkpoint files of others: without running what is pickled in them."""

import collections
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiera_seg.engine.checkpoint import CheckpointError


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint: .pkl as Detectron2's model zoo has them, else torch.save.

    Args:
        path: a file that holds a dict of tensors or arrays by name, or such a dict under "model"
            or "state_dict".

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: no such file, one that can not be read, or no tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}")
    try:
        content = _read_pickle(path) if path.suffix == ".pkl" else _read_torch(path)
    except CheckpointError:
        raise
    except Exception as error:  # reading what is no pickle ends in almost any error
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} can not be read as a checkpoint: {reason}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = _tensors(content) if isinstance(content, Mapping) else {}
    if not state:
        raise CheckpointError(
            f'{path} holds no tensors by name, neither at the top nor under "model" or "state_dict"'
        )
    return state


def _tensors(content: Mapping) -> dict[str, Tensor]:
    state = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray | np.generic):
            value = torch.from_numpy(np.array(value))
        if isinstance(name, str) and isinstance(value, Tensor):
            state[name] = value
    return state


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain data, which is not unpickled because it "
            "could run code. If you trust the file, save its tensors alone: "
            'torch.save({"model": torch.load(path, weights_only=False)["state_dict"]}, new_path)'
        ) from error


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _TensorUnpickler(file, encoding="latin1").load()


def _load_tensor(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles arrays and tensors; refuses every other name, since it could be any function."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
            ("torch.storage", "_load_from_bytes"): _load_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        }
        for package in ("numpy.core", "numpy._core"):  # before and since NumPy 2
            for function in ("_reconstruct", "scalar"):
                owner = np.zeros(0).__reduce__()[0].__module__  # where this NumPy has them
                multiarray = __import__(owner, fromlist=[function])
                allowed[f"{package}.multiarray", function] = getattr(multiarray, function)
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is neither array nor tensor and could run code"
            )
        return allowed[module, name]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)
