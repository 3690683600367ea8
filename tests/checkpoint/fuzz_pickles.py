"""Unpickle mutated and spliced checkpoints, and report as json what came of them.

Run by test_fuzz.py in a process of its own, whose crash is a failure:
``python -X faulthandler tests/checkpoint/fuzz_pickles.py --cases 20000 --seed 0``.
"""

import argparse
import collections
import io
import json
import pickle
import pickletools
import random
import resource
import struct
import time
import zipfile

import numpy as np
import torch

from hiera_seg.checkpoint import unpickle
from hiera_seg.checkpoint.torch_files import TorchUnpickler
from hiera_seg.checkpoint.unpickle import PlainUnpickler
from tests.checkpoint.test_unpickle import PYTHON_2, number, text

ATOMS = {type(None), bool, int, float, complex, str, bytes, bytearray}
TORCH_TYPES = {torch.Size, torch.dtype, torch.device}

NAMES = [
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n",
    b"ccollections\nOrderedDict\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.numeric\n_frombuffer\n",
    *(b"cbuiltins\n" + name + b"\n" for name in (b"bytes", b"bytearray", b"set", b"frozenset")),
    *(b"cbuiltins\n" + name + b"\n" for name in (b"list", b"dict", b"tuple", b"complex")),
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nSize\n",
]
HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")
DTYPE = b"cnumpy\ndtype\n(" + text("f4") + b"K\x00K\x01tR"
EIGHT = b"C\x08" + b"A" * 8
SPECIAL = [
    *NAMES,
    *(opcode.code.encode("latin1") for opcode in pickletools.opcodes if opcode.arg is None),
    HUGE,
    number(-1),
    number(-64),
    EIGHT,
    text("O"),
    text("V8"),
    text("f4,O"),
    text("(3,)f4"),
    *(name + HUGE + b"\x85R" for name in NAMES),  # such as bytes(10**12)
    *(name + b"N}" + text("__defaults__") + EIGHT + b"\x85s\x86b" for name in NAMES),
    *(name + b"}" + text("items") + name + b"sb" for name in NAMES),  # attributes
    *(name + b")\x81" for name in NAMES),  # objects of classes
    *(name + b")R}" + text("keys") + name + b"sb" for name in NAMES),
    # arrays over memory that is not theirs, and of pointers
    NAMES[0] + b"(" + number(64) + b"\x85" + text("u1") + EIGHT + number(-64) + b"tR",
    NAMES[0] + b"(" + number(1) + b"\x85" + text("O") + EIGHT + b"tR",
    NAMES[0] + b"(" + number(1) + b"\x85" + DTYPE + EIGHT + number(0) + number(64) + b"\x85tR",
    NAMES[6] + b"(" + EIGHT + DTYPE + number(64) + b"\x85" + text("C") + b"tR",
    NAMES[4] + DTYPE + b"C\x01A\x86R",
    # the state of a dtype that claims pointers, fields or a subarray
    DTYPE + b"(K\x03" + text("|") + b"NNN" + number(8) + number(8) + b"K\x3ftb",
    DTYPE + b"(K\x03" + text("<") + DTYPE + HUGE + b"\x85\x86NN" + number(-1) * 2 + b"K\x00tb",
    b"\x96" + struct.pack("<Q", 2**40),  # bytes beyond the end of the file
    b"r\xff\xff\xff\xff",
    b"(" * 50 + b"t" * 50,
    b"2\x85" * 200,
]


def zoo(protocol: int) -> bytes:
    """Return a file such as Detectron2's and Mask2Former's model zoos have."""
    weight = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    model = {
        "stem.conv1.weight": weight,
        "stem.fc.weight": np.asfortranarray(weight[0, 0]),
        "res2.weight": np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "res2.num_batches_tracked": np.array(7),
        "blob": np.frombuffer(b"\x01\x02", np.uint8),
        "big": np.arange(2, dtype=">f8"),
        "lr": np.float64(0.1),
        "name": np.array(["ab", "c"]),
        "void": np.zeros((0, 3), np.float16),
    }
    other = {"__author__": "Mask2Former", "set": {1, "a"}, "frozen": frozenset({2.5}), "n": 2**70}
    extra = {"bytes": b"\xff\x00", "buffer": bytearray(b"xy"), "z": 1j, "list": [None, (True, ())]}
    content = {"model": collections.OrderedDict(model), **other, **extra}
    return pickle.dumps(content, protocol)


def torch_pickle() -> bytes:
    """Return the pickle in a file of torch.save."""
    weight = torch.arange(12.0).reshape(3, 4)
    state = torch.nn.Linear(4, 3).state_dict()
    content = {"model": state, "w": weight.T, "half": weight.half(), "size": weight.shape}
    content |= {"f8": weight.to(torch.uint8), "p": torch.nn.Parameter(weight), "d": weight.dtype}
    content |= {"sparse": torch.zeros(2), "device": weight.device}
    file = io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


def opcodes(content: bytes) -> list[bytes]:
    places = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    return [content[a:b] for a, b in zip(places, places[1:], strict=False)]


def mutated(rng: random.Random, corpus: list[list[bytes]]) -> bytes:
    """Return a pickle of the corpus with a few changes of whole opcodes and single bytes."""
    ops = list(rng.choice(corpus))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = rng.randrange(len(ops))
        kind = rng.randrange(8)
        if kind == 0 and len(ops) > 1:
            del ops[place]
        elif kind == 1:
            ops.insert(place, ops[rng.randrange(len(ops))])
        elif kind == 2:
            other = rng.randrange(len(ops))
            ops[place], ops[other] = ops[other], ops[place]
        elif kind == 3:
            donor = rng.choice(corpus)
            start = rng.randrange(len(donor))
            ops[place : place + rng.randint(0, 8)] = donor[start : start + rng.randint(1, 40)]
        elif kind == 4:
            ops[place] = rng.choice(rng.choice(corpus))
        elif kind == 5 and ops[place]:
            changed = bytearray(ops[place])
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            ops[place] = bytes(changed)
        elif kind == 6:
            ops.insert(place, rng.choice(SPECIAL))
        else:  # before a STOP, so that it is in the result
            ops[-1:] = [rng.choice(SPECIAL), rng.choice([b".", b"\x86.", b"\x85.", b"0."])]
    return b"".join(ops)


def foreign(result: object, allowed: set[type]) -> set[str]:
    """Return the names of all types in a result that no checkpoint may hold."""
    todo, seen, found = [result], set(), set()
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind in ATOMS | allowed or id(value) in seen:
            continue
        seen.add(id(value))
        if kind in (dict, collections.OrderedDict, collections.Counter):
            todo += [*value.keys(), *value.values(), *getattr(value, "__dict__", {}).values()]
        elif kind in (list, tuple, set, frozenset):
            todo += value
        elif kind is np.ndarray or (isinstance(value, np.generic) and kind.__module__ == "numpy"):
            if value.dtype.kind not in "biufcSU":
                found.add(f"array of {value.dtype}")
            value.tobytes(), repr(value.flat[:3] if kind is np.ndarray else value)  # is readable
        elif kind is torch.Tensor and value.layout == torch.strided and not value.is_quantized:
            value.clone().sum()
        else:
            found.add(kind.__name__)
    return found


def storages(key: str, numel: int, dtype: torch.dtype) -> torch.Tensor:
    if numel > 1000:
        raise ValueError("no such storage")
    return torch.ones(numel, dtype=dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))  # no case may fill the memory
    corpus = [opcodes(zoo(protocol)) for protocol in range(6)]
    corpus += [opcodes(PYTHON_2), opcodes(torch_pickle())]
    names = vars(unpickle)
    functions = [value for value in names.values() if hasattr(value, "__defaults__")]
    before = [(f.__defaults__, dict(vars(f))) for f in functions]
    rng, counts = random.Random(args.seed), collections.Counter()
    foreign_types, errors = set(), set()
    start = time.perf_counter()
    for case in range(args.cases):
        file = io.BytesIO(mutated(rng, corpus))
        torches = case % 4 > 0
        try:
            loaded = (TorchUnpickler(file, storages) if torches else PlainUnpickler(file)).load()
        except (MemoryError, SystemError, RecursionError) as error:
            errors.add(repr(error))
        except Exception as error:
            counts[type(error).__name__] += 1
        else:
            counts["loaded"] += 1
            foreign_types |= foreign(loaded, TORCH_TYPES if torches else set())
    changed = before != [(f.__defaults__, dict(vars(f))) for f in functions]
    changed |= np.dtype("f4").byteorder != "="  # numpy shares its dtypes
    report = {"cases": args.cases, "seconds": round(time.perf_counter() - start, 1), **counts}
    report |= {"foreign": sorted(foreign_types), "errors": sorted(errors), "changed": changed}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
