"""Writing checkpoints so that there is always a whole one."""

import os
from collections.abc import Callable
from typing import IO, Any

import torch

from hiera_seg.checkpoint import SafeCheckpointer, tree_entries
from hiera_seg.config import CheckpointError
from hiera_seg.disk import replace_file

__all__ = ["CheckpointError", "HieraCheckpointer"]


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
        self._replace(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint from which a run resumes."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        self._replace(path, lambda file: file.write(last_filename_basename.encode()))

    @staticmethod
    def _replace(path: str, write: Callable[[IO[bytes]], object]) -> None:
        try:
            replace_file(path, write)
        except OSError as error:
            raise CheckpointError(
                f"{path} could not be written: {error.strerror}; the files before it are as they "
                "were"
            ) from error

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
