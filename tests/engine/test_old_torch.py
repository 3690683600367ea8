"""What torch 2.0 lacks is not needed; the names that it lacks are taken away here."""

import pytest

from tests.helpers import run_python

IN_TORCH_2_0 = """
import torch, torch.distributed
import hiera_seg.hierarchy  # what is below Detectron2 imports torch as it is
for name in ("DistError", "DistStoreError", "DistNetworkError"):
    vars(torch.distributed).pop(name, None)
vars(torch).pop("export", None)
"""

ERRORS = """
import hiera_seg.engine
from datetime import timedelta
from torch.distributed import DistBackendError, HashStore
from hiera_seg.compat import has_key, lost_contact
from hiera_seg.cli.rendezvous import meet
class Store(HashStore):  # without check
    def __getattribute__(self, name):
        if name == "check":
            raise AttributeError(name)
        return super().__getattribute__(name)

store = Store()
print(has_key(store, "go"))
store.set("go", "")
print(has_key(store, "go"), store.get("go"))
try:
    meet(Store(), 1, 2, timedelta(seconds=0.2))
except RuntimeError as error:
    print(lost_contact(error), error)
for error in (
    DistBackendError("NCCL error: remote process exited"),
    RuntimeError("The client socket has failed to connect to any network address of (node0, 1)."),
    TimeoutError("The client socket has timed out after 2s while trying to connect to (x, 1)."),
    RuntimeError("Socket Timeout"),
    RuntimeError("[/x/gloo/transport/tcp/pair.cc:538] Connection closed by peer"),
    RuntimeError("shapes cannot be multiplied"),
):
    print(lost_contact(error))
"""

EXPORT = """
from hiera_seg.config import ConfigError
from hiera_seg.inference.export import _check_packages
_check_packages("torchscript")
for format in ("export", "onnx"):
    try:
        _check_packages(format)
    except ConfigError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def lines() -> list[str]:
    done = run_python("-c", IN_TORCH_2_0 + ERRORS + EXPORT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_the_engine_knows_errors_of_other_processes(lines):
    *looks, waited, a, b, c, d, e, f = lines[:-2]
    assert looks == ["False", "True b''"]
    assert waited == "True process 1 waited 0:00:00.200000 for process 0 of its job"
    assert [a, b, c, d, e, f] == ["True"] * 5 + ["False"]


def test_a_format_that_needs_a_newer_torch_says_so(lines):
    assert [line.split(",")[0] for line in lines[-2:]] == [
        f"format {name}: requires torch 2.6 or newer" for name in ("export", "onnx")
    ]
