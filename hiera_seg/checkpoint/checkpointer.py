"""Detectron2's checkpointer, which trusts no file and lets no tree pass for another."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from hiera_seg.checkpoint.read import as_tensor, misfit, read_file
from hiera_seg.checkpoint.trees import (
    TREE_KEY,
    class_layers,
    difference,
    move_rows,
    tree_entries,
    tree_of,
)
from hiera_seg.config.checks import remote_scheme, weights_source_problem
from hiera_seg.disk import replace_file
from hiera_seg.errors import CheckpointError, HierarchyError
from hiera_seg.hierarchy import Hierarchy

MAP_KEY = "MODEL.HIERA_SEG.MAP_CLASSES"


class HieraCheckpointer(DetectionCheckpointer):
    """Loads what Detectron2's checkpointer loads, without running what is pickled in it.

    A checkpoint that stores its tree is refused by a model of another one, or its rows are moved.
    Stock weights store no tree and are matched by shape, as ever.
    """

    run_id = ""  # of the run that it saves, or resumes from; "" is not stored

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        map_classes: bool = False,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        """
        Args:
            model: wrapped for several processes or not.
            save_dir: folder of checkpoints.
            map_classes: load weights of another tree too, the rows of its class layers by the
                names of their nodes.
            save_to_disk: default: in the main process alone.
            checkpointables: objects with ``state_dict`` and ``load_state_dict``, by name.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.map_classes = map_classes

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: a file, ``package://<package>/<file>`` or an address; "" loads nothing. As in
                Detectron2's main, a last ``?matching_heuristics=True`` matches names that are
                alike.
            checkpointables: names of those to load beside the model; None: all.

        Returns:
            What else the checkpoint holds.

        Raises:
            CheckpointError: there is no such file, or it is not one for this model; the message
                names file and reason.
        """
        if not path:
            self.logger.info("No checkpoint found. Initializing model from scratch")
            return {}
        self.logger.info(f"[Checkpointer] Loading from {path} ...")
        path, heuristics = split_query(path)
        checkpoint = self._load_file(self._local_path(path))
        if heuristics:
            checkpoint["matching_heuristics"] = True
        names = self.checkpointables if checkpointables is None else checkpointables
        check_values(self.model, checkpoint["model"], path)
        self._check_tree(checkpoint, path, resumes=any(name in checkpoint for name in names))
        self._match_names(checkpoint, path)
        incompatible = self._load_model(checkpoint)
        # Of a file without versions torch does not miss the step counts of batch norms
        wanted = {key for key, _ in self.model.named_parameters()} or set(self.model.state_dict())
        unfit = {key for key, *_ in incompatible.incorrect_shapes}
        if wanted <= unfit | set(incompatible.missing_keys):
            raise CheckpointError(
                f"{path} holds weights of something else: none of its tensors has name and shape "
                "of one of this model; tools/convert_checkpoint.py knows some projects"
            )
        self._log_incompatible_keys(incompatible)
        for name in names:
            if name in checkpoint:
                self.logger.info(f"Loading {name} from {path} ...")
                self._load_state(name, checkpoint.pop(name), path)
        return checkpoint

    def _match_names(self, checkpoint: dict[str, Any], path: str) -> None:
        """Rename tensors by Detectron2's heuristics, where the checkpoint is to be loaded so."""
        if checkpoint.pop("matching_heuristics", False):
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
            check_values(self.model, checkpoint["model"], path)

    def _local_path(self, path: str) -> str:
        if problem := weights_source_problem(path):
            raise CheckpointError(f"weights {path}: {problem}")
        if remote_scheme(path):  # a warning is shown without any logging set up
            self.logger.warning(f"Loading weights from the network (or its cache): {path}")
        try:
            local = self.path_manager.get_local_path(path)
        except CheckpointError:  # of a package, which says itself what to do
            raise
        except Exception as error:  # whatever the download of a zoo file runs into
            raise CheckpointError(
                f"could not get the weights {path} ({error}); "
                "set MODEL.WEIGHTS to a local copy of that file"
            ) from error
        if not os.path.exists(local):
            raise CheckpointError(f"there is no checkpoint file {path}; check MODEL.WEIGHTS")
        return local

    def _load_file(self, filename: str) -> dict[str, Any]:
        """The content of a file, tensors by name under "model"; formats as Detectron2's."""
        content = read_file(filename)
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{filename} holds a {type(content).__name__}, not a dict of tensors by name"
            )
        content = dict(content)
        if "model_state" in content and "model" not in content:  # of pycls
            content = {"model": content["model_state"], "matching_heuristics": True}
            content["model"] = _without(content["model"], "num_batches_tracked")
        elif "blobs" in content or (filename.endswith(".pkl") and "model" not in content):
            self.logger.info(f"Taking {filename} for a file of Detectron 1, in Caffe2's names")
            state = _without(content.get("blobs", content), "_momentum")
            content = {"model": state, "__author__": "Caffe2", "matching_heuristics": True}
        elif "model" not in content:
            if isinstance(content.get("state_dict"), Mapping):
                raise CheckpointError(
                    f'{filename} holds its weights under "state_dict", as other projects do; '
                    "tools/convert_checkpoint.py converts those it knows"
                )
            content = {"model": content}
        content["model"] = _state(content["model"], filename)
        return content

    def _check_tree(self, checkpoint: dict[str, Any], path: str, *, resumes: bool) -> None:
        ours, stored = tree_of(self.model), checkpoint.get(TREE_KEY)
        if ours is None or stored is None:
            return
        try:
            theirs = Hierarchy.from_dict(**stored)
        except (HierarchyError, TypeError) as error:
            raise CheckpointError(f"the class tree in {path} can not be read: {error}") from error
        differs = difference(theirs, ours)
        if not differs:
            return
        trees = (
            f"{path} was trained under tree {theirs.name!r} ({theirs.num_nodes} nodes), this model "
            f"has tree {ours.name!r} ({ours.num_nodes} nodes): {differs}"
        )
        if resumes:
            raise CheckpointError(
                f"{trees}; a run goes on under its own tree: begin another one, in another "
                f"OUTPUT_DIR, from MODEL.WEIGHTS {path} with {MAP_KEY} True"
            )
        if not self.map_classes:
            raise CheckpointError(
                f"{trees}; set MODEL.HIERA_SEG.HIERARCHY to the tree of the weights, or {MAP_KEY} "
                "True to move the rows of its nodes by their names"
            )
        layers = class_layers(self.model)
        own = self.model.state_dict()
        missing = move_rows(checkpoint["model"], own, layers, theirs, ours)
        for name, state in checkpoint.items():  # such as averaged weights
            if name != "model" and isinstance(state, dict) and layers.keys() <= state.keys():
                move_rows(state, own, layers, theirs, ours)
        self._report_mapping(path, missing, ours)

    def _report_mapping(self, path: str, missing: list[str], ours: Hierarchy) -> None:
        """Say which nodes got no weights; `missing` are their paths."""
        found = ours.num_nodes - len(missing)
        self.logger.info(f"Classes of {path} by name: {found} of {ours.num_nodes} nodes")
        if missing:
            self.logger.warning(f"Nodes that begin untrained: {', '.join(missing)}")

    def _load_state(self, name: str, state: Any, path: str) -> None:
        try:
            self.checkpointables[name].load_state_dict(state)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f'the state of "{name}" in {path} does not fit this run '
                f"({type(error).__name__}: {reason}); to begin a new run from its weights, set "
                "MODEL.WEIGHTS to it and leave --resume away"
            ) from error

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


def check_values(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Raise unless tensors hold values that a model can have.

    Args:
        model: the model that they are loaded into.
        state: tensors by name; names and shapes that do not fit are not looked at.
        path: the file, for messages.

    Raises:
        CheckpointError: a tensor of integers or complex numbers for a parameter of floats, or one
            of NaN alone; the message names file and tensor.
    """
    own = model.state_dict()
    for name, value in state.items():
        target = own.get(name, own.get(name.removeprefix("module.")))
        reason = misfit(value, target) if isinstance(target, Tensor) else ""
        if reason:
            raise CheckpointError(
                f"{path}: tensor {name} {reason}; use an intact checkpoint of floats"
            )


def split_query(path: str) -> tuple[str, bool]:
    """A path without the query that Detectron2's main reads, and whether it asks for heuristics."""
    query = urlsplit(path).query
    if parse_qs(query).get("matching_heuristics") != ["True"] or os.path.exists(path):
        return path, False
    return path.removesuffix(f"?{query}"), True


def _without(state: Any, ending: str) -> Any:
    if not isinstance(state, Mapping):
        return state
    return {name: value for name, value in state.items() if not str(name).endswith(ending)}


def _state(state: Any, path: str) -> dict[str, Any]:
    """Check that these are tensors by name, and make tensors of arrays."""
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f'{path}: "model" is a {type(state).__name__}, not a dict of tensors by name; save '
            "model.state_dict()"
        )
    tensors = {name: as_tensor(value) for name, value in state.items()}
    wrong = [name for name, value in tensors.items() if value is None or not isinstance(name, str)]
    if wrong or not tensors:
        found = ", ".join(f"{name!r} ({type(state[name]).__name__})" for name in wrong[:3])
        raise CheckpointError(
            f"{path} is no checkpoint of a network: it holds {found or 'nothing'} where tensors by "
            "name should be"
        )
    return tensors
