"""Read the files of torch.save as plain data, with every size checked before it is used.

``torch.load(weights_only=True)`` does not make the same promises: before torch 2.6 it could run
code (CVE-2025-32434), it inflates compressed entries of any size, the size of a storage is checked
by recent versions only, and storages that a file from before torch 1.6 does not hold are returned
uninitialized.
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

from hiera_seg.checkpoint.unpickle import (
    NUMPY_FUNCTIONS,
    Functions,
    Global,
    Odd,
    PlainUnpickler,
    UnfitPickle,
    sizes,
)
from hiera_seg.errors import CheckpointError
from hiera_seg.hierarchy.messages import listing

ZIP = b"PK"
# The first bytes of the files that torch.save wrote before version 1.6: a pickled number
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

DTYPES = {  # without quantized types and types of less than a byte
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
QUANTIZED_STORAGES = [
    f"torch.{kind}Storage" for kind in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
]

GetStorage = Callable[[str, int, torch.dtype], Tensor | Odd]


class _Storage(NamedTuple):
    values: Tensor  # (numel,)


def _tensor(
    storage: Any, offset: int, size: Any, stride: Any, *rest: Any, dtype: Any = None
) -> Tensor | Odd:
    """Return a tensor in a storage; arguments as in ``torch._utils._rebuild_tensor_v2``."""
    if type(storage) is Odd:
        return storage
    size, stride = (tuple(n) if type(n) is torch.Size else n for n in (size, stride))
    fits = type(storage) is _Storage and type(offset) is int and offset >= 0
    if not (fits and sizes(size) and sizes(stride) and len(size) == len(stride)):
        raise UnfitPickle("a tensor in it has no storage, shape or strides")
    if len(rest) > 2 and rest[2]:  # requires_grad, backward_hooks, metadata
        return Odd("is a conjugate or negative view; save its resolve_conj().resolve_neg()")
    values = storage.values if dtype is None else storage.values.view(dtype)
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel > len(values) or (numel and last >= len(values)):
        return Odd(
            f"has shape {size}, but its storage holds {len(values)} values; save its contiguous()"
        )
    if not numel:
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
    """Return a tensor that was saved with Python attributes, without them."""
    if type(function) is not Global or function.name not in TORCH_FUNCTIONS:
        raise UnfitPickle("a tensor in it is of another class")
    return TORCH_FUNCTIONS[function.name](*arguments)


def _device(kind: Any, *index: Any) -> torch.device:
    if type(kind) is not str or any(type(n) is not int for n in index):
        raise UnfitPickle("a device in it has no name")
    return torch.device(kind, *index)


def _size(numbers: Any) -> torch.Size:
    if not sizes(numbers):
        raise UnfitPickle("a shape in it is not of integers")
    return torch.Size(numbers)


def _counter(counts: Any = ()) -> Counter:
    return Counter(counts if type(counts) is dict else {})


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
    """Unpickle tensors as well; ``get_storage(key, numel, dtype)`` returns their values."""

    functions = TORCH_FUNCTIONS
    constants = {
        **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
        **{
            f"torch.per_{name}": QUANTIZED
            for name in (
                "tensor_affine",
                "tensor_symmetric",
                "channel_affine",
                "channel_symmetric",
                "channel_affine_float_qparams",
            )
        },
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


def check_archive(path: Path) -> None:
    """Raise unless a zip archive is intact, and laid out as torch.save does since version 1.6.

    Raises:
        CheckpointError: the message names the file and the entry.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            inside = {name.partition("/")[2] for name in names}
            bad = _bad_size(entries, size)  # before entries are read, for they could be large
            damaged = archive.testzip() if "data.pkl" in inside and not bad else None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: a zip archive that is cut short or damaged ({size} bytes long; its list of "
            "contents is missing or wrong); copy or download the file again"
        ) from error
    if "constants.pkl" in inside:
        raise CheckpointError(
            f"{path}: a TorchScript program, not a checkpoint; save the model's state_dict() with "
            "torch.save"
        )
    if "data.pkl" not in inside:
        raise CheckpointError(
            f"{path}: a zip archive that torch.save did not write; it holds "
            f"{listing(names, 3) or 'nothing'}"
        )
    if bad:
        raise CheckpointError(f"{path}: {bad}; save the checkpoint again with torch.save")
    if damaged is not None:
        raise CheckpointError(
            f"{path}: damaged, the checksum of its entry {damaged} is wrong; copy or download the "
            "file again"
        )


def _bad_size(entries: list[zipfile.ZipInfo], size: int) -> str:
    """Return which entry of an archive exceeds its place in the file; "" if none does."""
    end, before = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED:
            return f"its entry {name} is compressed, which torch.save never does"
        if entry.file_size != entry.compress_size:
            return f"its entry {name} has two sizes, {entry.file_size} and {entry.compress_size}"
        if entry.header_offset < end:
            return f"its entries {before} and {name} overlap"
        end, before = entry.header_offset + entry.compress_size, name
    if end > size:
        return f"its entries end at byte {end}, but the file has {size}"
    if len({entry.filename for entry in entries}) < len(entries):
        return "two of its entries have the same name"
    return ""


def read_archive(path: Path) -> Any:
    """Read a zip archive that :func:`check_archive` accepts."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next(name for name in entries if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise UnfitPickle("it is in big-endian byte order; save it on a little-endian machine")
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
    """Read what torch.save wrote before version 1.6: pickles, then the storages."""
    left = size = os.fstat(file.fileno()).st_size
    for _ in range(3):  # magic number, version, and sizes of C types
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
        target = memoryview(values.view(torch.uint8).numpy()) if numel else b""
        if numel != len(values) or (numel and file.readinto(target) != length):
            raise UnfitPickle(f"it is cut short, or the size of storage {key} is wrong")
    return content


def _itemsize(dtype: torch.dtype) -> int:
    return torch.empty(0, dtype=dtype).element_size()
