"""Unpickle numbers, text, arrays and containers without calling anything that a file names.

Python's unpickler calls what a pickle names, and lets it set attributes and raw memory. Here its
stack never holds a class or a function: a name becomes a :class:`Global`, and a call of one runs a
function of this module instead, which checks its arguments.
"""

import math
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

SWITCH = "--unsafe-pickle"
NUMBERS = "biufc"  # kinds of dtypes
# Numbers of every kind in the sizes that all machines have, and text of a fixed length
PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}")
ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
MAPPINGS = frozenset({dict, OrderedDict, Counter})
SEQUENCES = frozenset({list, tuple, set, frozenset})

_allowed = False


def allow_unsafe_pickle(allowed: bool = True) -> None:
    """Allow this process to unpickle any object in a checkpoint, which can execute any code.

    No config key does this, because config files may be untrusted too.

    Args:
        allowed: False restores the default.
    """
    global _allowed
    _allowed = allowed


def unsafe_pickle_allowed() -> bool:
    """Return the last argument of :func:`allow_unsafe_pickle`, by default False."""
    return _allowed


class RefusedPickle(pickle.UnpicklingError):
    """Raised for a pickle that names something other than plain data.

    Attributes:
        wanted: the name, such as "os.system".
    """

    def __init__(self, wanted: str):
        super().__init__(f"it names {wanted}")
        self.wanted = wanted


class UnfitPickle(pickle.UnpicklingError):
    """Raised for a well-formed pickle with a value that no checkpoint may hold."""


class Global(NamedTuple):
    """A name in a pickle. It cannot be called, and none of its attributes can be set."""

    name: str


class Odd(NamedTuple):
    """A placeholder for a value that is refused if it is part of the result.

    Attributes:
        what: completes "<place> ...", such as "is a sparse tensor".
    """

    what: str


class DType:
    """Replaces numpy.dtype, whose pickled state could declare numbers to be pointers."""

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
    """An array before its state is set, which holds its content in protocols below 5."""

    def __init__(self, kind: Global, shape: tuple, dtype: str | bytes):
        if kind != Global("numpy.ndarray"):
            raise RefusedPickle(f"an array of class {_short(getattr(kind, 'name', kind))}")
        self.array: np.ndarray | Odd | None = None

    def build(self, state: Any) -> np.ndarray | Odd:
        version, shape, dtype, column_major, content = state
        self.array = _array(content, dtype, shape, "F" if column_major else "C")
        return self.array


class _Memo(dict):
    """What a pickle refers to again: arrays are stored in it before their state is set."""

    def __getitem__(self, key: int) -> Any:
        value = super().__getitem__(key)
        return value if type(value) is not NewArray or value.array is None else value.array


def sizes(value: Any) -> bool:
    """Return whether a value is a tuple of integers >= 0, as a shape is."""
    return type(value) is tuple and all(type(n) is int and n >= 0 for n in value)


def _array(
    content: Any, dtype: DType, shape: tuple[int, ...], order: str, axes: Any = None
) -> np.ndarray | Odd:
    """Return a copy of the content as an array in native byte order.

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
    if axes is not None:  # of channels-last arrays
        if not sizes(axes) or sorted(axes) != list(range(array.ndim)):
            raise pickle.UnpicklingError("axes that do not fit their array")
        array = array.transpose(axes)
    return array.astype(numpy.newbyteorder("="), "K")


def _scalar(dtype: DType, content: str | bytes) -> np.generic | Odd:
    array = _array(content, dtype, (), "C")
    return array if type(array) is Odd else array[()]


def _bytes(content: Any = b"", encoding: str = "latin1") -> bytes:
    if type(content) is str and encoding in ("latin1", "latin-1"):
        return content.encode("latin1")
    if type(content) not in (bytes, bytearray):  # an int would allocate that much memory
        raise pickle.UnpicklingError(f"bytes of a {type(content).__name__}")
    return bytes(content)


def _ordered(pairs: Any = ()) -> OrderedDict:
    """Return an OrderedDict of its items, which Python 2 passes to the constructor."""
    if type(pairs) not in (list, tuple) or any(
        type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs
    ):
        raise pickle.UnpicklingError("a dictionary of something other than pairs")
    return update(OrderedDict(), [value for pair in pairs for value in pair])


def _complex(real: float, imaginary: float) -> complex:
    if {type(real), type(imaginary)} != {float}:
        raise pickle.UnpicklingError("a complex number of something other than numbers")
    return complex(real, imaginary)


def checked_keys(values: Any = ()) -> Iterable:
    """Return values if hashing them needs no recursion, which could overflow the C stack."""
    if type(values) not in (list, tuple):
        raise pickle.UnpicklingError(f"a set of a {type(values).__name__}")
    for value in values:
        parts = value if type(value) is tuple else (value,)
        if not all(type(part) in ATOMS or isinstance(part, np.generic) for part in parts):
            raise pickle.UnpicklingError(f"a key of type {type(value).__name__}")
    return values


def update(target: dict, items: list) -> dict:
    """Add a list of keys and values in turn to a dictionary."""
    for key, value in zip(checked_keys(items[::2]), items[1::2], strict=True):
        target[key] = value  # Counter.update would count
    return target


Functions = Mapping[str, Callable | None]
NUMPY_FUNCTIONS: Functions = {
    "builtins.bytearray": lambda *args: bytearray(_bytes(*args)),
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "builtins.frozenset": lambda *args: frozenset(checked_keys(*args)),
    "builtins.set": lambda *args: set(checked_keys(*args)),
    "_codecs.encode": _bytes,  # bytes in protocols before 3
    "collections.OrderedDict": _ordered,
    "numpy.dtype": DType,
    "numpy.ndarray": None,  # the argument of _reconstruct
    "numpy._core.multiarray._reconstruct": NewArray,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _array,  # protocol 5
}

_LITERALS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "NONE NEWTRUE NEWFALSE EMPTY_LIST EMPTY_TUPLE EMPTY_DICT EMPTY_SET LIST TUPLE TUPLE1 TUPLE2 "
    "TUPLE3"
)
_STACK = (
    "PROTO STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL BINPERSID APPEND APPENDS"
)


# The standard library's implementation in Python: that in C has no opcodes to replace
class PlainUnpickler(pickle._Unpickler):
    """Unpickle numpy arrays and scalars, OrderedDict and Python's own containers only.

    Strings of Python 2, in which the oldest files of Detectron's model zoo are written, are read
    as Latin-1, as in Detectron2.

    Attributes:
        functions: for each name in a pickle, what a call of it runs; None: it cannot be called.
        constants: objects that a pickle may name.
        types: further types of values that a pickle may hold.
    """

    functions: Functions = NUMPY_FUNCTIONS
    constants: Mapping[str, Any] = {}
    types: frozenset[type] = frozenset()

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="latin1")
        self.memo = _Memo()

    def load(self) -> Any:
        """Read one pickle.

        Raises:
            RefusedPickle: it names something other than plain data.
            UnfitPickle: it holds a value that cannot be in a checkpoint.
            Exception: almost any other, for a damaged file.
        """
        result = super().load()
        self._check(result)
        return result

    def find_class(self, module: str, name: str) -> Any:
        """Return a :class:`Global`, or a constant, for a name in a pickle."""
        if not type(module) is type(name) is str:
            raise pickle.UnpicklingError("a name that is no text")
        module = "builtins" if module == "__builtin__" else module  # Python 2
        full = re.sub(r"^numpy\.core\.", "numpy._core.", f"{module}.{name}")  # before numpy 2
        if full in self.constants:
            return self.constants[full]
        if full in self.functions:
            return Global(full)
        raise RefusedPickle(f"{module}.{name}")

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside of the pickle")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an opcode that makes no plain data")

    def _instance(self) -> None:
        self.find_class(*(self.readline()[:-1].decode() for _ in range(2)))  # to name the class
        self._refuse()

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.append(self.find_class(module, name))

    def _frame(self) -> None:
        self.read(8)  # its size, which only matters for reading ahead

    def _bytearray(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        content = self.read(size)  # Python's own allocates the size before it reads
        if len(content) < size:
            raise pickle.UnpicklingError("bytes that are cut short")
        self.append(bytearray(content))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        update(self._top(MAPPINGS), [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        update(self._top(MAPPINGS), items)

    def _dict(self) -> None:
        items = self.pop_mark()  # it replaces self.append
        self.append(update({}, items))

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(checked_keys(items)))

    def _add_items(self) -> None:
        items = self.pop_mark()
        self._top({set}).update(checked_keys(items))

    def _top(self, types: Iterable[type]) -> Any:
        if type(self.stack[-1]) not in types:
            raise pickle.UnpicklingError(f"items for a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        replacement = self.functions[function.name]
        if replacement is None:
            raise RefusedPickle(function.name)
        self.append(replacement(*arguments))

    def _build(self) -> None:
        """Set the state of an object; attributes of state dicts (module versions) are dropped."""
        state, target = self.stack.pop(), self.stack.pop()
        if type(target) in (DType, NewArray):
            if type(state) is not tuple:
                raise pickle.UnpicklingError("the state of an array is no tuple")
            target = target.build(state)
        elif type(target) is not OrderedDict:
            raise pickle.UnpicklingError(f"attributes for a {type(target).__name__}")
        self.append(target)

    # Opcodes that are not named here are refused
    dispatch = {
        **dict.fromkeys(range(256), _refuse),
        **{
            code: pickle._Unpickler.dispatch[code]
            for code in (getattr(pickle, name)[0] for name in f"{_LITERALS} {_STACK}".split())
        },
        pickle.FRAME[0]: _frame,
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozenset,
        pickle.STACK_GLOBAL[0]: _stack_global,
        pickle.REDUCE[0]: _call,
        pickle.BUILD[0]: _build,
        pickle.INST[0]: _instance,
    }

    def _check(self, result: Any) -> None:
        """Raise unless a result is plain data only; without recursion, and cycles may occur."""
        todo, seen = [((), result)], set()
        while todo:
            place, value = todo.pop()
            kind = type(value)
            if kind in ATOMS or kind in self.types or id(value) in seen:
                continue
            seen.add(id(value))
            if kind in MAPPINGS:
                todo += [((place, key), item) for key, item in value.items()]
            elif kind in SEQUENCES:
                todo += [((place, n), item) for n, item in enumerate(value)]
            elif kind is Odd:
                raise UnfitPickle(f"{_path(place)} {value.what}")
            elif kind is Global:
                raise RefusedPickle(value.name)
            elif kind is not np.ndarray and not isinstance(value, np.generic):
                raise UnfitPickle(f"{_path(place)} is not plain data ({kind.__name__.lstrip('_')})")


def _path(place: tuple) -> str:
    keys = []
    while place:
        place, key = place
        keys.append(str(key)[:200])
    return "/".join(reversed(keys[:4])) or "the content"


def _short(value: Any) -> str:
    """Return a text, or the type of anything else, whose repr could exceed the memory."""
    return repr(value[:50]) if type(value) is str else f"a {type(value).__name__}"
