"""Build the numbers, arrays and containers that a pickle describes, from checked arguments.

These functions stand for those that pickles name; :mod:`hiera_seg.checkpoint.unpickle` calls them.
"""

import math
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

NUMBERS = "biufc"  # kinds of dtypes
# Numbers of every kind in sizes that all machines have, and text of a fixed length
PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}")


class RefusedPickle(pickle.UnpicklingError):
    """A pickle names something that is not plain data.

    Attributes:
        wanted: the name, such as "os.system".
    """

    def __init__(self, wanted: str):
        super().__init__(f"it names {wanted}")
        self.wanted = wanted


class UnfitPickle(pickle.UnpicklingError):
    """A pickle is well formed, but holds a value that no checkpoint may hold."""


class Global(NamedTuple):
    """A name in a pickle. It cannot be called, and has no attributes that can be set."""

    name: str


class Odd(NamedTuple):
    """Stands for a value that is refused unless the pickle discards it; ``what`` completes
    "<place> ...", such as "is a sparse tensor"."""

    what: str


class DType:
    """Stands for numpy.dtype, whose own state could claim that numbers are pointers."""

    def __init__(self, name: str, *flags: Any):
        if type(name) is not str or not PLAIN_DTYPE.fullmatch(name.lstrip("<>=|")):
            raise RefusedPickle(f"an array of {_short(name)}, not of numbers or text")
        self.numpy = np.dtype(name)

    def build(self, state: Any) -> "DType":
        version, byte_order, subarray, names, fields, *_ = state
        if byte_order not in ("<", ">", "=", "|") or (subarray, names, fields) != (None,) * 3:
            raise pickle.UnpicklingError(f"{self.numpy} has no such state")
        self.numpy = self.numpy.newbyteorder(byte_order)
        return self


class NewArray:
    """An array between its creation and its state, where protocols below 5 have its content."""

    def __init__(self, kind: Global, shape: tuple, dtype: str | bytes):
        if kind != Global("numpy.ndarray"):
            raise RefusedPickle(f"an array of class {_short(getattr(kind, 'name', kind))}")
        self.array: np.ndarray | Odd | None = None

    def build(self, state: Any) -> np.ndarray | Odd:
        version, shape, dtype, column_major, content = state
        self.array = _array(content, dtype, shape, "F" if column_major else "C")
        return self.array


def _array(
    content: Any, dtype: DType, shape: tuple[int, ...], order: str, axes: Any = None
) -> np.ndarray | Odd:
    """Return an array of its own memory, in the byte order of this machine.

    The arguments are those of numpy's ``_frombuffer``.
    """
    content = _bytes(content, "latin1")
    if type(dtype) is not DType or not sizes(shape) or len(shape) > 32:
        raise pickle.UnpicklingError("an array without a dtype or a shape")
    numpy = dtype.numpy
    if math.prod(shape) * numpy.itemsize != len(content):
        return Odd(f"has shape {shape} and type {numpy}, but {len(content)} bytes in the file")
    array = np.ndarray(shape, numpy, content, order="F" if order == "F" else "C")
    if numpy.kind == "U" and array.size:
        codes = np.frombuffer(content, np.dtype("u4").newbyteorder(numpy.byteorder))
        if codes.max() > 0x10FFFF:
            raise pickle.UnpicklingError("text with a character beyond Unicode")
    if axes is not None:  # as channels-last arrays have them
        if not sizes(axes) or sorted(axes) != list(range(array.ndim)):
            raise pickle.UnpicklingError("not the axes of an array")
        array = array.transpose(axes)
    return array.astype(numpy.newbyteorder("="), "K")


def sizes(value: Any) -> bool:
    """Whether a value is a tuple of integers, none of them negative, as a shape is."""
    return type(value) is tuple and all(type(n) is int and n >= 0 for n in value)


def _scalar(dtype: DType, content: str | bytes) -> np.generic | Odd:
    array = _array(content, dtype, (), "C")
    return array if type(array) is Odd else array[()]


def _bytes(content: Any = b"", encoding: str = "latin1") -> bytes:
    if type(content) is str and encoding in ("latin1", "latin-1"):
        return content.encode("latin1")
    if type(content) not in (bytes, bytearray):  # an int would ask for that much memory
        raise pickle.UnpicklingError(f"bytes of a {type(content).__name__}")
    return bytes(content)


def _items(pairs: Any = ()) -> list:
    """Return the keys and values of Python 2's OrderedDict as one list."""
    if type(pairs) not in (list, tuple) or any(
        type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs
    ):
        raise pickle.UnpicklingError("a dictionary of something else than pairs")
    return [value for pair in pairs for value in pair]


def _complex(real: float, imaginary: float) -> complex:
    if {type(real), type(imaginary)} != {float}:
        raise pickle.UnpicklingError("a complex number of something else than numbers")
    return complex(real, imaginary)


def checked_keys(values: Any = ()) -> Iterable:
    """Check that values can be hashed without recursion, which overflows the stack of C."""
    if type(values) not in (list, tuple):
        raise pickle.UnpicklingError(f"a set of a {type(values).__name__}")
    for value in values:
        parts = value if type(value) is tuple else (value,)
        if not all(type(part) in ATOMS or isinstance(part, np.generic) for part in parts):
            raise pickle.UnpicklingError(f"a key of type {type(value).__name__}")
    return values


def update(target: dict, items: list) -> dict:
    for key, value in zip(checked_keys(items[::2]), items[1::2], strict=True):
        target[key] = value  # Counter.update would count
    return target


ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
MAPPINGS = frozenset({dict, OrderedDict, Counter})
SEQUENCES = frozenset({list, tuple, set, frozenset})

Functions = Mapping[str, Callable | None]
NUMPY_FUNCTIONS: Functions = {
    "builtins.bytearray": lambda *args: bytearray(_bytes(*args)),
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "builtins.frozenset": lambda *args: frozenset(checked_keys(*args)),
    "builtins.set": lambda *args: set(checked_keys(*args)),
    "_codecs.encode": _bytes,  # bytes in protocols before 3
    "collections.OrderedDict": lambda *args: update(OrderedDict(), _items(*args)),
    "numpy.dtype": DType,
    "numpy.ndarray": None,  # the argument of _reconstruct
    "numpy._core.multiarray._reconstruct": NewArray,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _array,  # protocol 5
}


def _short(value: Any) -> str:
    """Return a text, or the type of anything else, whose repr could be larger than the memory."""
    return repr(value[:50]) if type(value) is str else f"a {type(value).__name__}"
