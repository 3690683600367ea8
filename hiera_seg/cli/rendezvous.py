"""Connect the processes of a torchrun job, also after torchrun has restarted them."""

import os
import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore

from hiera_seg.compat import DistStoreError, has_key

_PAUSE = 0.05  # seconds between polls


def agent_store(timeout: timedelta) -> Store | None:
    """Return the store of torchrun's agent, under a prefix that only this attempt uses.

    The agent keeps one store for all attempts of a job, which still holds the keys of earlier
    attempts: without a prefix, restarted processes would read addresses of dead ones
    (https://github.com/pytorch/pytorch/issues/135712). The restart count cannot be the prefix,
    because it differs between machines.

    Args:
        timeout: of the store's operations, and of the wait for all processes.

    Returns:
        A store for ``init_process_group``; None if torchrun does not share its store.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, False, timeout
    )
    return PrefixStore(meet(store, rank, world_size, timeout), store)


def meet(store: Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Agree with the other processes of this attempt on a new session id.

    Rank 0 publishes a session id, waits for every rank to acknowledge it, deletes the published
    key, then sets a "go" key. An id left over from an earlier attempt was never acknowledged by
    all ranks, so no rank proceeds on it; ranks that acknowledged it see the new one later.

    Raises:
        DistStoreError: not all processes came in time.
    """
    published = "hiera_seg/session"
    if rank == 0:
        session = uuid.uuid4().hex
        store.set(published, session)
        acknowledged = [f"hiera_seg/{session}/{other}" for other in range(1, world_size)]
        if acknowledged:
            store.wait(acknowledged, timeout)
        store.delete_key(published)
        store.set(f"hiera_seg/{session}/go", "")
        return session
    deadline = time.monotonic() + timeout.total_seconds()
    session = ""
    while time.monotonic() < deadline:
        if session and has_key(store, f"hiera_seg/{session}/go"):
            return session
        if has_key(store, published):
            found = store.get(published).decode()
            if found != session:
                session = found
                store.set(f"hiera_seg/{session}/{rank}", "")
        time.sleep(_PAUSE)
    raise DistStoreError(f"process {rank} waited {timeout} for process 0 of its job")
