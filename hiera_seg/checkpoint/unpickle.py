"""Unpickle numbers, text, arrays and containers, without calling anything that a file names.

Python's own unpickler calls what a pickle names and lets it set attributes and raw memory. Here the
opcodes (documented in the standard library's ``pickletools``) work on a stack that never holds a
class or a function: a name becomes a :class:`Global`, and calling one looks up a function of this
package that checks its arguments.
"""

import codecs
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import numpy as np

from hiera_seg.checkpoint.plain import (
    ATOMS,
    MAPPINGS,
    NUMPY_FUNCTIONS,
    SEQUENCES,
    DType,
    Functions,
    Global,
    NewArray,
    Odd,
    RefusedPickle,
    UnfitPickle,
    checked_keys,
    update,
)

SWITCH = "--unsafe-pickle"

_allowed = False


def allow_unsafe_pickle(allowed: bool = True) -> None:
    """Let this process unpickle whatever a checkpoint names, which can run any code.

    No config key does this, because a config file may come from elsewhere too.

    Args:
        allowed: False returns to plain data alone.
    """
    global _allowed
    _allowed = allowed


def unsafe_pickle_allowed() -> bool:
    """Return what :func:`allow_unsafe_pickle` was last called with; False at the start."""
    return _allowed


class PlainUnpickler:
    """Unpickles numpy arrays and scalars, OrderedDict and Python's containers alone.

    Strings of Python 2, in which the oldest files of Detectron's model zoo are written, are read
    as Latin-1, as Detectron2 reads them.

    Attributes:
        functions: by the name in a pickle, what replaces a call of it; None: not to be called.
        constants: objects that a pickle may name.
        types: further types of values that a pickle may hold.
    """

    functions: Functions = NUMPY_FUNCTIONS
    constants: Mapping[str, Any] = {}
    types: frozenset[type] = frozenset()

    def __init__(self, file: IO[bytes]):
        self._file = file

    def load(self) -> Any:
        """Read one pickle.

        Raises:
            RefusedPickle: it names something that is not plain data.
            UnfitPickle: it holds a value that cannot be in a checkpoint.
            Exception: almost any other, of a damaged file.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        while True:
            opcode = _OPCODES.get(self._file.read(1))
            if opcode is None:
                raise pickle.UnpicklingError("not a pickle, or one that is cut short")
            argument = _argument(opcode, self._file)
            if opcode.name == "STOP":
                result = self._stack.pop()
                self._check(result)
                return result
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _CONTAINERS:
                self._stack.append(_CONTAINERS[opcode.name]())
            else:
                self._step(opcode.name, argument)

    def find_class(self, module: str, name: str) -> Any:
        """Return a :class:`Global`, or a constant, for a name in a pickle."""
        module = "builtins" if module == "__builtin__" else module  # Python 2
        full = re.sub(r"^numpy\.core\.", "numpy._core.", f"{module}.{name}")  # before numpy 2
        if full in self.constants:
            return self.constants[full]
        if full in self.functions:
            return Global(full)
        raise RefusedPickle(f"{module}.{name}")

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside of the pickle")

    def _step(self, name: str, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        match name:
            case "PROTO" | "FRAME":
                return
            case "MARK":
                self._marks.append(len(stack))
                return
            case "POP" if self._marks and self._marks[-1] == len(stack):
                self._marks.pop()
                return
            case "POP":
                stack.pop()
                return
            case "POP_MARK":
                self._pop_mark()
                return
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
                return
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
                return
            case "APPEND":
                item = stack.pop()
                self._top({list}).append(item)
                return
            case "APPENDS":
                items = self._pop_mark()
                self._top({list}).extend(items)
                return
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                update(self._top(MAPPINGS), [key, value])
                return
            case "SETITEMS":
                items = self._pop_mark()
                update(self._top(MAPPINGS), items)
                return
            case "ADDITEMS":
                items = self._pop_mark()
                self._top({set}).update(checked_keys(items))
                return
            case "GET" | "BINGET" | "LONG_BINGET":
                value = memo[argument]
                if type(value) is NewArray and value.array is not None:
                    value = value.array
            case "DUP":
                value = stack[-1]
            case "LIST":
                value = self._pop_mark()
            case "TUPLE":
                value = tuple(self._pop_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                value = tuple(stack.pop() for _ in range(int(name[-1])))[::-1]
            case "DICT":
                value = update({}, self._pop_mark())
            case "FROZENSET":
                value = frozenset(checked_keys(self._pop_mark()))
            case "GLOBAL":
                value = self.find_class(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not type(module) is type(attribute) is str:
                    raise pickle.UnpicklingError("a name that is no text")
                value = self.find_class(module, attribute)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                value = self._call(function, arguments)
            case "BUILD":
                state, target = stack.pop(), stack.pop()
                value = _build(target, state)
            case "BINPERSID":
                value = self.persistent_load(stack.pop())
            case "INST":  # an object of a class: the class is refused by its name, if it can be
                self.find_class(*argument.split(" ", 1))
                raise pickle.UnpicklingError("INST makes no plain data")
            case _:
                raise pickle.UnpicklingError(f"{name} makes no plain data")
        stack.append(value)

    def _pop_mark(self) -> list:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _top(self, types: Iterable[type]) -> Any:
        if type(self._stack[-1]) not in types:
            raise pickle.UnpicklingError(f"items for a {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def _call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Global or type(arguments) is not tuple:
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        replacement = self.functions[function.name]
        if replacement is None:
            raise RefusedPickle(function.name)
        return replacement(*arguments)

    def _check(self, result: Any) -> None:
        """Raise unless a result holds plain data alone; without recursion, cycles included."""
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
    return "/".join(reversed(keys[:4])) or "the whole"


def _build(target: Any, state: Any) -> Any:
    """Give an object the state that a pickle holds for it."""
    if type(target) in (DType, NewArray):
        if type(state) is not tuple:
            raise pickle.UnpicklingError("the state of an array is no tuple")
        return target.build(state)
    if type(target) is not OrderedDict:
        raise pickle.UnpicklingError(f"attributes for a {type(target).__name__}")
    return target  # attributes, of which state_dict() has versions of modules, are left out


def _argument(opcode: pickletools.OpcodeInfo, file: IO[bytes]) -> Any:
    if opcode.name == "STRING":  # pickletools itself takes these for ASCII
        text = pickletools.read_stringnl(file, decode=False)
        return codecs.escape_decode(text)[0].decode("latin1")
    return opcode.arg.reader(file) if opcode.arg is not None else None


_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8".split()
)
_CONTAINERS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
