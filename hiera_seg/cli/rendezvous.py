"""How processes that torchrun has started find each other, also after it has started them anew."""

import os
import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore

from hiera_seg.compat import DistStoreError, has_key

_PAUSE = 0.05  # seconds between two looks


def agent_store(timeout: timedelta) -> Store | None:
    """The store of torchrun's agent, in a part of it that only this start of the processes uses.

    The agent keeps one store for all starts of a job. What the processes of an earlier start wrote
    is still there: without a part of its own, a new start would read addresses of dead processes
    (https://github.com/pytorch/pytorch/issues/135712). Restarts are counted by each machine alone,
    so that the count can not name that part.

    Args:
        timeout: of operations of the store, and for all processes to come.

    Returns:
        A store for ``init_process_group``; None where torchrun shares none.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, False, timeout
    )
    return PrefixStore(meet(store, rank, world_size, timeout), store)


def meet(store: Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Agree with the other processes of this start on a name that no other start has.

    The first process calls out a new name and waits until all have answered it; it takes the call
    back before it lets them go. So a call that stands from an earlier start was never answered by
    all of its processes, and nobody is let go on it: who has answered that one hears the new one.

    Args:
        store: what all starts of a job share.
        rank: of this process.
        world_size: how many there are.
        timeout: for all of them to come.

    Raises:
        DistStoreError: they did not come in time.
    """
    call = "hiera_seg/call"
    if rank == 0:
        name = uuid.uuid4().hex
        store.set(call, name)
        answers = [f"hiera_seg/{name}/{other}" for other in range(1, world_size)]
        if answers:
            store.wait(answers, timeout)
        store.delete_key(call)
        store.set(f"hiera_seg/{name}/go", "")
        return name
    deadline = time.monotonic() + timeout.total_seconds()
    name = ""
    while time.monotonic() < deadline:
        if name and has_key(store, f"hiera_seg/{name}/go"):
            return name
        if has_key(store, call):
            heard = store.get(call).decode()
            if heard != name:
                name = heard
                store.set(f"hiera_seg/{name}/{rank}", "")
        time.sleep(_PAUSE)
    raise DistStoreError(f"process {rank} waited {timeout} for the first process of its job")
