"""Decide whether to resume after torchrun has restarted the processes of a job."""

import logging
import os
import uuid
from pathlib import Path

from detectron2.utils import comm

from hiera_seg.checkpoint import HieraCheckpointer, read_file
from hiera_seg.disk import replace_text
from hiera_seg.errors import CheckpointError

logger = logging.getLogger(__name__)

MARKER = "torchrun_job"  # file in OUTPUT_DIR with the id of the job and of the run it started


def job_of_torchrun() -> str:
    """Return the --rdzv-id of this torchrun job, by default "none"; "" without torchrun."""
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return ""
    return os.environ.get("TORCHELASTIC_RUN_ID", "none")


def should_resume(checkpointer: HieraCheckpointer, resume: bool) -> bool:
    """Return whether to resume from the last checkpoint; the same on all processes.

    This is the case if `resume` is set, or if torchrun has restarted the processes: after one of
    them died (``--max-restarts``), or because machines left or joined (``--nnodes MIN:MAX`` with an
    ``--rdzv-id``). In the second case the checkpoint must be of the run that this job started: its
    run id must equal the one in the file ``torchrun_job``. Modification times are not compared,
    because clocks may differ.

    Args:
        checkpointer: checkpointer of the output folder. Under torchrun it gets a new ``run_id``.
        resume: whether the user passed ``--resume``.

    Raises:
        CheckpointError: only some processes see the checkpoint.
    """
    if job_of_torchrun():
        checkpointer.run_id = uuid.uuid4().hex
        if not resume:
            restarts = max(comm.all_gather(int(os.environ["TORCHELASTIC_RESTART_COUNT"])))
            resume = comm.is_main_process() and _restarted(checkpointer, restarts)
            resume = comm.all_gather(resume)[0]
    if resume:
        _check_all_see_it(checkpointer)
    return resume


def _restarted(checkpointer: HieraCheckpointer, restarts: int) -> bool:
    """Return whether this job has a checkpoint here; otherwise record the run that it starts."""
    marker, job = Path(checkpointer.save_dir) / MARKER, job_of_torchrun()
    noted_job, _, run_id = marker.read_text().partition("\n") if marker.is_file() else ("",) * 3
    # Jobs without an --rdzv-id have the same id; only a restarted one has started a run before
    if noted_job == job and (job != "none" or restarts > 0):
        if run_id and _is_of_run(checkpointer, run_id):
            logger.info("torchrun restarted this job; resuming from its last checkpoint")
            return True
        logger.info("torchrun restarted this job; it has no checkpoint yet and starts again")
    replace_text(marker, f"{job}\n{checkpointer.run_id}")
    return False


def _is_of_run(checkpointer: HieraCheckpointer, run_id: str) -> bool:
    """Return whether the last checkpoint is of a run.

    Also True if it cannot be read; loading it then raises the error on all processes.
    """
    if not checkpointer.has_checkpoint():
        return False
    try:
        content = read_file(checkpointer.get_checkpoint_file())
    except CheckpointError:
        return True
    return isinstance(content, dict) and content.get("run_id") == run_id


def _check_all_see_it(checkpointer: HieraCheckpointer) -> None:
    seen = checkpointer.has_checkpoint() and os.path.isfile(checkpointer.get_checkpoint_file())
    by_process = comm.all_gather(seen)
    if len(set(by_process)) > 1:
        blind = ", ".join(str(rank) for rank, seen in enumerate(by_process) if not seen)
        raise CheckpointError(
            f"OUTPUT_DIR {checkpointer.save_dir}: processes {blind} of 0..{len(by_process) - 1} do "
            "not see the last checkpoint, others do; use a folder that all machines share"
        )
