"""An unpickler that makes arrays, scalars and containers, and nothing that could run code."""

import collections
import pickle
from collections.abc import Callable
from typing import IO, Any

import numpy as np

SWITCH = "--unsafe-pickle"
NUMBERS = "biufc"  # kinds of dtypes
TEXT_AND_TIME = "SUMm"

_allowed = False


def allow_unsafe_pickle(allowed: bool = True) -> None:
    """Let this process unpickle whatever a checkpoint names, which can run any code.

    No config key does this, because a config file may come from elsewhere too.

    Args:
        allowed: False goes back to plain data alone.
    """
    global _allowed
    _allowed = allowed


def unsafe_pickle_allowed() -> bool:
    """What :func:`allow_unsafe_pickle` was told last; False at the start."""
    return _allowed


class PlainUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and scalars, OrderedDict and builtin containers alone.

    Strings of Python 2, in which the oldest files of Detectron's model zoo are written, are read
    as Latin-1, as Detectron2 reads them.
    """

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PLAIN[module, name]
        except KeyError:
            module = "builtins" if module == "__builtin__" else module
            raise RefusedPickle(f"{module}.{name}") from None


class RefusedPickle(pickle.UnpicklingError):
    """A pickle names something that is no plain data.

    Attributes:
        wanted: the name, such as "os.system".
    """

    def __init__(self, wanted: str):
        super().__init__(f"it names {wanted}")
        self.wanted = wanted


class _Array(np.ndarray):
    """An array whose state may hold numbers alone."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, column_major, content = state
        super().__setstate__((version, shape, dtype.numpy, column_major, _bytes(content)))


class _DType:
    """Stands for numpy.dtype, whose own state could claim that numbers are pointers."""

    def __init__(self, name: str, *flags: Any):
        self.numpy = np.dtype(name) if isinstance(name, str) else np.dtype("V")
        if self.numpy.kind not in NUMBERS + TEXT_AND_TIME:
            raise RefusedPickle(f"an array of {name!r}, not of numbers or text")

    def __setstate__(self, state: tuple) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])  # (version, "<" or ">" or "|", ...)


def _empty_array(kind: type, *shape_and_dtype: Any) -> _Array:
    """What an array begins as; its state, shape and dtype included, follows in the file."""
    return _Array.__new__(_Array, (0,), "b")


def _scalar(dtype: _DType, content: str | bytes) -> np.generic:
    return np.frombuffer(_bytes(content), dtype.numpy, count=1)[0]


def _array_of_bytes(content: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
    """How pickle's protocol 5 writes arrays."""
    return np.frombuffer(content, dtype.numpy).reshape(shape, order=order).copy(order)


def _bytes(text: str | bytes, encoding: str = "latin1") -> bytes:
    return text.encode(encoding) if isinstance(text, str) else text


_BUILTINS: list[Callable] = [dict, list, tuple, set, frozenset, bytes, bytearray, complex]
_PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _bytes,  # bytes in protocols before 3
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")  # Python 2's name for it
        for kind in _BUILTINS
    },
}
for _package in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _PLAIN[f"{_package}.multiarray", "_reconstruct"] = _empty_array
    _PLAIN[f"{_package}.multiarray", "scalar"] = _scalar
    _PLAIN[f"{_package}.numeric", "_frombuffer"] = _array_of_bytes
