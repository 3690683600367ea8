"""Writing checkpoints so that there is always a whole one."""

import contextlib
import os
from collections.abc import Callable
from typing import IO, Any

import torch

from hiera_seg.checkpoint import SafeCheckpointer, tree_entries
from hiera_seg.config import CheckpointError

__all__ = ["CheckpointError", "HieraCheckpointer", "replace_file"]


class HieraCheckpointer(SafeCheckpointer):
    """Reads as :class:`~hiera_seg.checkpoint.SafeCheckpointer`, and never leaves half a file.

    Killed at any time, or out of space, it leaves ``last_checkpoint`` naming a whole one.

    Attributes:
        run_id: of the run that it saves; stored in its checkpoints, and read from the one that a
            run resumes from. "" is not stored.
    """

    run_id = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``: model, class tree, and state of a run.

        Args:
            name: file name without suffix.
            kwargs: further plain data to store beside the model and the checkpointables.

        Raises:
            CheckpointError: it could not be written; what was there before still is.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **tree_entries(self.model)}
        data.update((key, obj.state_dict()) for key, obj in self.checkpointables.items())
        data.update(kwargs)
        if self.run_id:
            data["run_id"] = self.run_id
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        replace_file(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint from which a run goes on."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        replace_file(path, lambda file: file.write(last_filename_basename.encode()))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last checkpoint of ``save_dir`` with all state, or else the weights of a file.

        Raises:
            CheckpointError: see :meth:`load`; or ``last_checkpoint`` names none.
        """
        resume = resume and self.has_checkpoint()
        if resume:
            last = self.get_checkpoint_file()
            if not os.path.isfile(last):
                name = os.path.join(self.save_dir, "last_checkpoint")
                there = sorted(os.path.basename(p) for p in self.get_all_checkpoint_files())
                raise CheckpointError(
                    f"{name} names {os.path.basename(last)!r}, which is not there; write one of "
                    f"these into it: {', '.join(there) or '(no checkpoint is there)'}"
                )
        content = super().resume_or_load(path, resume=resume)
        if resume:
            self.run_id = content.get("run_id", self.run_id)
        return content


def replace_file(path: str | os.PathLike, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under another name, and rename it once all of it is on the disk.

    Args:
        path: the file; what was there stays until the new one is whole.
        write: writes to an open binary file.

    Raises:
        CheckpointError: it could not be written, for want of space perhaps.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    # Another one for each file, for several processes write into a folder. What a killed one left
    # is overwritten when the run that goes on comes to the same file.
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if not isinstance(error, OSError | RuntimeError):
            raise
        raise CheckpointError(
            f"{path} could not be written: {_cause(error)}; the files before it are as they were"
        ) from error


def _sync_folder(folder: str) -> None:
    """Put the new name on the disk; not all file systems can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cause(error: BaseException) -> str:
    """The operating system's word for it: torch.save wraps it in errors of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error).strip().split("\n")[0]
