"""Going on by itself after torchrun has started the processes of a job anew."""

import logging
import os
from pathlib import Path

from detectron2.checkpoint import Checkpointer
from detectron2.utils import comm

from hiera_seg.config import CheckpointError

logger = logging.getLogger(__name__)

MARKER = "torchrun_job"  # in OUTPUT_DIR: the id of the job that trains there, written as it began


def goes_on(checkpointer: Checkpointer, resume: bool) -> bool:
    """Whether a run goes on from the last checkpoint of its folder; the same on all processes.

    It does where ``resume`` asks for it, and where torchrun has started the processes anew: after
    one of them died (``--max-restarts``), or because machines left or joined (``--nnodes
    MIN:MAX``, where ``--rdzv-id`` tells one job from another). A checkpoint that lay there before
    the job began is not taken then: it is of another run.

    Args:
        checkpointer: of the folder.
        resume: what the user asked for.

    Raises:
        CheckpointError: only some processes see the checkpoint.
    """
    if not resume and "TORCHELASTIC_RESTART_COUNT" in os.environ:
        restarts = comm.all_gather(int(os.environ["TORCHELASTIC_RESTART_COUNT"]))
        decisions = comm.all_gather(
            comm.is_main_process() and _restarted(Path(checkpointer.save_dir), max(restarts))
        )
        resume = decisions[0]
    if resume:
        _check_all_see_it(checkpointer)
    return resume


def _restarted(folder: Path, restarts: int) -> bool:
    """Whether this job has trained here and left a checkpoint; otherwise note that it begins."""
    marker, pointer = folder / MARKER, folder / "last_checkpoint"
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # "none": torchrun was given no id
    began_before = marker.is_file() and (
        restarts > 0 or (job != "none" and marker.read_text() == job)
    )
    if not began_before:
        marker.write_text(job)
        return False
    if not pointer.is_file() or pointer.stat().st_mtime_ns < marker.stat().st_mtime_ns:
        logger.info("torchrun started this job anew; it has no checkpoint yet and begins again")
        return False
    logger.info("torchrun started this job anew; it goes on from its last checkpoint")
    return True


def _check_all_see_it(checkpointer: Checkpointer) -> None:
    seen = checkpointer.has_checkpoint() and os.path.isfile(checkpointer.get_checkpoint_file())
    by_process = comm.all_gather(seen)
    if len(set(by_process)) > 1:
        blind = ", ".join(str(rank) for rank, seen in enumerate(by_process) if not seen)
        raise CheckpointError(
            f"OUTPUT_DIR {checkpointer.save_dir}: processes {blind} of 0..{len(by_process) - 1} do "
            "not see the last checkpoint there, others do; to go on, all machines need the same "
            "folder, on storage that they share"
        )
