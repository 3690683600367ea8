"""Read the files of torch.save as plain data: tensors whose sizes are checked, and containers.

``torch.load(weights_only=True)`` is not used, because what it refuses and which sizes it checks
depend on the version of torch (CVE-2025-32434 ran code through it before 2.6), and because it
inflates compressed entries of any size.
"""

import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiera_seg.checkpoint.plain import (
    NUMPY_FUNCTIONS,
    Functions,
    Global,
    Odd,
    UnfitPickle,
    sizes,
)
from hiera_seg.checkpoint.unpickle import PlainUnpickler

# What torch.save began its files with before version 1.6: a pickled number
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

DTYPES = {  # without those of quantized tensors and of less than a byte
    name: getattr(torch, name)
    for name in dir(torch)
    if re.fullmatch(r"u?int(8|16|32|64)|b?float(16|32|64|8_\w+)|bool|complex(32|64|128)", name)
}
STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
QUANTIZED = Odd("is a quantized tensor; save its dequantize()")
QUANTIZED_STORAGES = [f"torch.{kind}Storage" for kind in ("QInt8", "QUInt8", "QInt32")]
QUANTIZED_STORAGES += ["torch.QUInt4x2Storage", "torch.QUInt2x4Storage"]

GetStorage = Callable[[str, int, torch.dtype], Tensor | Odd]


class _Storage(NamedTuple):
    values: Tensor  # (numel,)


def _tensor(
    storage: Any, offset: int, size: Any, stride: Any, *rest: Any, dtype: Any = None
) -> Tensor | Odd:
    """Return a tensor in a storage; arguments as of ``torch._utils._rebuild_tensor_v2``."""
    if type(storage) is Odd:
        return storage
    size, stride = (tuple(n) if type(n) is torch.Size else n for n in (size, stride))
    fits = type(storage) is _Storage and type(offset) is int and offset >= 0
    if not (fits and sizes(size) and sizes(stride) and len(size) == len(stride)):
        raise UnfitPickle("a tensor in it has no storage, shape or strides")
    if len(rest) > 2 and rest[2]:  # requires_grad, backward_hooks, metadata
        return Odd("is a conjugate or negative view; save its resolve_conj().resolve_neg()")
    values = storage.values if dtype is None else storage.values.view(dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(values) or (math.prod(size) and last >= len(values)):
        return Odd(
            f"has shape {size}, but its storage holds {len(values)} values; save its contiguous()"
        )
    if not math.prod(size):
        return torch.empty(size, dtype=values.dtype)
    return values.as_strided(size, stride, values.storage_offset() + offset)


def _typed_tensor(
    storage: Any, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Tensor | Odd:
    """Return a tensor of a type that has no storage class of its own."""
    if type(dtype) is not torch.dtype:
        raise UnfitPickle("a tensor in it has no dtype")
    return _tensor(storage, offset, size, stride, grad, hooks, *rest, dtype=dtype)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _of_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Return a tensor that had attributes in Python, without these."""
    if type(function) is not Global or function.name not in TORCH_FUNCTIONS:
        raise UnfitPickle("a tensor in it is of another class")
    return TORCH_FUNCTIONS[function.name](*arguments)


def _device(kind: Any, *index: Any) -> torch.device:
    if type(kind) is not str or any(type(n) is not int for n in index):
        raise UnfitPickle("a device in it has no name")
    return torch.device(kind, *index)


def _size(numbers: Any) -> tuple:
    if not sizes(numbers):
        raise UnfitPickle("a shape in it is not of integers")
    return torch.Size(numbers)


def _counter(counts: Any = ()) -> Counter:
    return Counter({} if type(counts) is not dict else counts)


TORCH_FUNCTIONS: Functions = {
    **NUMPY_FUNCTIONS,
    **dict.fromkeys([*STORAGE_DTYPES, *QUANTIZED_STORAGES]),
    "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    "collections.Counter": _counter,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": lambda name: None,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_sparse_tensor": lambda *_: Odd("is sparse; save its to_dense()"),
    "torch._utils._rebuild_nested_tensor": lambda *_: Odd("is a nested tensor"),
    "torch._utils._rebuild_qtensor": lambda *_: QUANTIZED,
    "torch._utils._rebuild_meta_tensor_no_storage": lambda *_: Odd(
        "is a tensor on the meta device, which has no values"
    ),
}


class TorchUnpickler(PlainUnpickler):
    """Unpickles tensors as well; ``get_storage(key, numel, dtype)`` returns their values."""

    functions = TORCH_FUNCTIONS
    constants = {
        **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
        **{f"torch.per_{name}": QUANTIZED for name in ("tensor_affine", "tensor_symmetric")},
        **{f"torch.per_channel_{name}": QUANTIZED for name in ("affine", "symmetric")},
        "torch.per_channel_affine_float_qparams": QUANTIZED,
    }
    types = frozenset({Tensor, torch.Size, torch.dtype, torch.device})

    def __init__(self, file: IO[bytes], get_storage: GetStorage):
        super().__init__(file)
        self._get_storage = get_storage

    def persistent_load(self, key: Any) -> Any:
        kind, storage_type, name, _, numel, *view = key
        if kind != "storage" or type(storage_type) is not Global:
            raise UnfitPickle("a reference in it is not to a storage")
        if storage_type.name in QUANTIZED_STORAGES:
            return QUANTIZED
        if type(name) is not str or not sizes((numel,)):
            raise UnfitPickle("a storage in it has no name or size")
        values = self._get_storage(name, numel, STORAGE_DTYPES[storage_type.name])
        if type(values) is Odd:
            return values
        if view and view[0] is not None:  # of torch before 0.4: a part of a storage
            _, start, length = view[0]
            if not sizes((start, length)) or start + length > numel:
                raise UnfitPickle(f"storage {name} ends before a part of it")
            values = values[start : start + length]
        return _Storage(values)


def read_archive(path: Path) -> Any:
    """Read a zip archive, as torch.save writes since version 1.6; see :func:`check_archive`."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next(name for name in entries if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise UnfitPickle("it was written on a big-endian machine; save it on another one")
        found: dict[str, Tensor] = {}

        def get_storage(key: str, numel: int, dtype: torch.dtype) -> Tensor | Odd:
            name, length = f"{root}data/{key}", numel * _itemsize(dtype)
            if name not in entries or entries[name].file_size != length:
                there = f"{entries[name].file_size} bytes" if name in entries else "none"
                return Odd(f"needs {length} bytes, but {name} has {there}")
            if name not in found:
                found[name] = torch.empty(length, dtype=torch.uint8)
                found[name].numpy()[:] = np.frombuffer(archive.read(name), np.uint8)
            return found[name].view(dtype)

        with archive.open(f"{root}data.pkl") as file:
            return TorchUnpickler(file, get_storage).load()


def read_legacy(file: IO[bytes]) -> Any:
    """Read what torch.save wrote before version 1.6: pickles, and then the storages."""
    left = size = os.fstat(file.fileno()).st_size
    for _ in range(3):  # magic number, version, and sizes of C's types
        PlainUnpickler(file).load()
    found: dict[str, Tensor] = {}

    def get_storage(key: str, numel: int, dtype: torch.dtype) -> Tensor | Odd:
        nonlocal left
        if key not in found:
            length = numel * _itemsize(dtype)
            if length > left:
                return Odd(f"needs {length} bytes; the file is cut short ({size} bytes long)")
            left -= length
            found[key] = torch.empty(numel, dtype=dtype)
        if (len(found[key]), found[key].dtype) != (numel, dtype):
            return Odd(f"is in storage {key}, which has two sizes or types")
        return found[key]

    content = TorchUnpickler(file, get_storage).load()
    keys = PlainUnpickler(file).load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise UnfitPickle("it has no list of storages")
    if sorted(keys) != sorted(found):
        raise UnfitPickle("the storages that it names are not those that it holds")
    for key in keys:
        numel, values = int.from_bytes(file.read(8), "little"), found[key]
        length = numel * _itemsize(values.dtype)
        bytes_left = memoryview(values.view(torch.uint8).numpy()) if numel else b""
        if numel != len(values) or (numel and file.readinto(bytes_left) != length):
            raise UnfitPickle(f"it is cut short, or storage {key} has another size than named")
    return content


def _itemsize(dtype: torch.dtype) -> int:
    return torch.empty(0, dtype=dtype).element_size()
