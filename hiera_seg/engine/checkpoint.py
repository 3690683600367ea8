"""Saving and loading checkpoints."""

import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from hiera_seg.config import CheckpointError


class HieraCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that never leaves half a file and explains a missing one."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` under another name first, then rename it.

        Args:
            name: file name without suffix.
            kwargs: further plain data to store beside the model and the checkpointables.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update((key, obj.state_dict()) for key, obj in self.checkpointables.items())
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with open(f"{path}.tmp", "wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.tmp", path)
        self.tag_last_checkpoint(os.path.basename(path))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, as Detectron2 does.

        Raises:
            CheckpointError: the file is not there, or could not be downloaded.
        """
        if path:
            try:
                local = self.path_manager.get_local_path(path)
            except Exception as error:  # whatever the download of a zoo file runs into
                raise CheckpointError(
                    f"could not get the weights {path} ({error}); "
                    "set MODEL.WEIGHTS to a local copy of that file"
                ) from error
            if not os.path.isfile(local):
                raise CheckpointError(f"there is no checkpoint file {path}; check MODEL.WEIGHTS")
        return super().load(path, *args, **kwargs)
