"""What a pickle may hold: arrays, scalars and containers, in all protocols, and nothing else."""

import collections
import datetime
import functools
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from hiera_seg.checkpoint.unpickle import PlainUnpickler, RefusedPickle

PLAIN = {
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "channels last": np.arange(24.0).reshape(1, 2, 4, 3).transpose(0, 3, 1, 2),
    "other axes": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "read only": np.frombuffer(b"abcd", np.uint16),
    "big endian": np.arange(4, dtype=">i4"),
    "no dimension": np.array(2.5),
    "nothing in it": np.zeros((0, 3), np.float16),
    "booleans": np.array([True, False]),
    "text": np.array(["ab", "c"]),
    "complex": np.array([1 + 2j]),
    "a scalar": np.float64(0.25),
    "another": np.int64(-7),
    "ordered": collections.OrderedDict(b=np.uint8(1), a=[None, True, 1.5, 2**80, "ü"]),
    "containers": ({1, 2}, frozenset({3}), [(), {}], b"\x00\xff", bytearray(b"ab"), 1j),
}


def unpickle(content: bytes) -> object:
    return PlainUnpickler(io.BytesIO(content)).load()


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return a.dtype.newbyteorder("=") == b.dtype and np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_as_pickle_has_it(protocol):
    content = pickle.dumps(PLAIN, protocol)
    assert same(pickle.loads(content), unpickle(content))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_of_either_numpy_are_known(protocol):
    content = pickle.dumps({"x": PLAIN["array"], "y": PLAIN["a scalar"]}, protocol)
    old, new = b"numpy.core.", b"numpy._core."
    assert (old in content) != (new in content)
    if protocol >= 4:  # names have their length before them
        old, new = (bytes([len(p) + n]) + p for p, n in ((old, 10), (new, 10)))
        if protocol == 5:
            pytest.skip("frames of arrays: see test_plain_data_comes_back_as_pickle_has_it")
        content = pickletools.optimize(content)
        content = content[:2] + content[11:]  # without its frame
    other = content.replace(new, old) if new in content else content.replace(old, new)
    assert other != content
    found = unpickle(other)
    assert np.array_equal(found["x"], PLAIN["array"]) and found["y"] == 0.25


# Written by Python 2.7's cPickle.dumps({'model': {'conv1_w': numpy.array([1, 2], '<f4')},
# '__author__': u'x'}, 2) as the files of Detectron's first model zoo are
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x05modelq\x02}q\x03U\x07conv1_wq\x04cnumpy.core.multiarray\n_reconstruct\n"
    b"q\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02\x85cnumpy\ndtype\nq\x08"
    b"U\x02f4K\x00K\x01\x87Rq\x09(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    b"U\x08\x00\x00\x80?\x00\x00\x00@tbsU\n__author__q\nX\x01\x00\x00\x00xu."
)


def test_files_of_python_2_are_read():
    found = unpickle(PYTHON_2)
    assert found["__author__"] == "x"
    assert found["model"]["conv1_w"].dtype == np.float32
    assert found["model"]["conv1_w"].tolist() == [1, 2]


class Calls:
    def __init__(self, function, *args):
        self.called = function, args

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Calls(os.system, "echo no"), f"{os.system.__module__}.system"),
        (Calls(eval, "1"), "builtins.eval"),
        (Calls(getattr, [], "append"), "builtins.getattr"),
        (functools.partial(print), "functools.partial"),
        (collections.Counter("aa"), "collections.Counter"),
        (datetime.date(2020, 1, 1), "datetime.date"),
        (np.dtype, "builtins.type|numpy.dtype"),
        (np.array([1, "x", None], dtype=object), "an array of 'O8'"),
        (np.zeros(1, [("a", "i4")]), "an array of 'V4'"),
        (np.ma.zeros(2), "numpy.ma"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_everything_else_is_refused_by_its_name(protocol, value, wanted):
    if value is np.dtype:  # naming it is allowed, calling it with something odd is not
        value = Calls(np.dtype, {"names": ["a"], "formats": ["O"]})
        wanted = "an array of a dict"
    with pytest.raises(RefusedPickle, match=wanted):
        unpickle(pickle.dumps({"model": {"x": value}}, protocol))


def test_state_of_a_file_does_not_change_the_types_that_numpy_shares():
    unpickle(pickle.dumps({"x": np.arange(3, dtype=">f4")}, 2))
    assert np.dtype("f4").byteorder == "="


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


NDARRAY, ENCODE = b"cnumpy\nndarray\n", b"c_codecs\nencode\n"
FRESH = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"K\x00\x85C\x01btR"
F4 = b"cnumpy\ndtype\n(" + text("f4") + b"K\x00K\x01tR"
BYTES = b"C\x08" + b"A" * 8
SHARED = b"N" + b"2\x86" * 60  # a tuple of 2 ** 60 items, by references
TRILLION = b"\x8a\x06" + (10**12).to_bytes(6, "little")


@pytest.mark.parametrize(
    "ops",
    [
        NDARRAY + b"(" + number(64) + b"\x85" + text("u1") + BYTES + number(-64) + b"tR",
        NDARRAY + b"(" + number(1) + b"\x85" + text("O") + BYTES + b"tR",
        FRESH + b"(K\x01" + TRILLION + b"\x85" + F4 + b"\x89" + BYTES + b"tb",
        FRESH + b"(K\x01" + number(-1) + number(-2) + b"\x86" + F4 + b"\x89" + BYTES + b"tb",
        FRESH + b"(K\x01" + number(3) + b"\x85" + F4 + b"\x89" + BYTES + b"tb",
        FRESH,
        F4,
        F4 + b"(K\x03" + text("|") + text("a") + b"NN" + number(8) * 2 + b"K\x3ftb",
        b"cnumpy.core.numeric\n_frombuffer\n(" + BYTES + F4 + number(64) + b"\x85U\x01CtR",
        b"cnumpy.core.multiarray\nscalar\n" + F4 + b"C\x01A\x86R",
        b"cbuiltins\nbytes\n" + TRILLION + b"\x85R",
        b"cbuiltins\nbytearray\n" + TRILLION + b"\x85R",
        ENCODE,
        ENCODE + b"N}" + text("__defaults__") + BYTES + b"\x85s\x86b",
        b"cbuiltins\nset\n)\x81",
        b"(ibuiltins\nset\n",
        b"\x82\x01",
        b"N" + b"\x85" * 100_000 + b"N}\x85R",
        b"}N" + b"\x85" * 100_000 + b"Ns",  # hashing this key overflows the stack of C
        b"\x8f(N" + b"\x85" * 100_000 + b"\x90",
        SHARED + SHARED + b"\x93",
        b"}" + SHARED + b"Ns",
        b"cnumpy\ndtype\n" + SHARED + b"\x85R",
        b"cnumpy.core.multiarray\n_reconstruct\n(" + SHARED + b"K\x00\x85C\x01btR",
    ],
    ids=range(24),
)
def test_no_object_takes_memory_calls_or_attributes_from_a_file(ops):
    before = dict(vars(pickle)), np.dtype("f4").byteorder
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        unpickle(b"\x80\x03" + ops + b".")
    assert before == (dict(vars(pickle)), np.dtype("f4").byteorder)


@pytest.mark.parametrize(
    "name", ["numpy ndarray", "numpy dtype", "_codecs encode", "builtins bytes", "builtins set"]
)
def test_what_a_name_becomes_can_neither_be_called_nor_changed(name):
    found = PlainUnpickler(io.BytesIO()).find_class(*name.split())
    assert not callable(found) and not hasattr(found, "__dict__")
    with pytest.raises(AttributeError):
        found.extra = 1
    with pytest.raises(AttributeError):
        found.name = "os.system"


def test_a_structure_that_holds_itself_ends():
    found = unpickle(b"\x80\x02]q\x00h\x00a.")
    assert found[0] is found


def test_attributes_of_a_state_dict_are_left_out():
    state = collections.OrderedDict(w=np.ones(2))
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    found = unpickle(pickle.dumps(state))
    assert type(found) is collections.OrderedDict and found.keys() == {"w"} and not vars(found)


@pytest.mark.parametrize("protocol", [0, 1])
def test_strings_of_python_2_are_latin1(protocol):
    content = b"S'\\xe9'\n." if protocol == 0 else b"U\x01\xe9."
    assert unpickle(content) == "\xe9"
