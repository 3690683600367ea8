"""Define a DetectionCheckpointer that executes no pickled code and checks the class tree."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from hiera_seg.checkpoint.read import as_tensor, misfit, read_file
from hiera_seg.checkpoint.trees import (
    ROWS_KEY,
    TREE_KEY,
    class_layers,
    difference,
    move_rows,
    training_only,
    tree_entries,
    tree_of,
)
from hiera_seg.config.checks import remote_scheme, weights_source_problem
from hiera_seg.disk import replace_file
from hiera_seg.errors import CheckpointError, HierarchyError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.messages import listing

MAP_KEY = "MODEL.HIERA_SEG.MAP_CLASSES"
_WRAPPER = "module."
_STATISTICS = (".running_mean", ".running_var")  # the only buffers that are trained


class HieraCheckpointer(DetectionCheckpointer):
    """Load the checkpoints that Detectron2's checkpointer loads, without executing pickled code.

    A checkpoint that stores another class tree than the model's is refused, or the rows of its
    class layers are moved. Stock weights store no tree and are matched by name and shape.
    """

    run_id = ""  # of the run that is saved or resumed; "" is not stored

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        map_classes: bool = False,
        require_head: bool = False,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        """
        Args:
            model: wrapped for several processes or not.
            save_dir: folder of checkpoints.
            map_classes: also load weights of another tree, and move the rows of its class layers
                by the names of their nodes.
            require_head: raise if a file does not fit the model, or lacks weights that predictions
                depend on: those of any module but ones with the attribute ``training_only``.
                Detectron2 only warns, and the model would predict noise.
            save_to_disk: by default True in the main process only.
            checkpointables: objects with ``state_dict`` and ``load_state_dict``, by name.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.map_classes = map_classes
        self.require_head = require_head

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: a file, ``package://<package>/<file>`` or a URL; "" loads nothing. As in
                Detectron2's main branch, the suffix ``?matching_heuristics=True`` matches tensors
                by similar names.
            checkpointables: names of those to load in addition to the model; None: all.

        Returns:
            The other entries of the checkpoint.

        Raises:
            CheckpointError: there is no such file, or it does not fit this model; the message
                names the file and the reason.
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
        if checkpoint.pop("matching_heuristics", False):
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
            check_values(self.model, checkpoint["model"], path)
        incompatible = self._load_model(checkpoint)
        self._check_loaded(incompatible, path)
        self._log_incompatible_keys(incompatible)
        for name in names:
            if name in checkpoint:
                self.logger.info(f"Loading {name} from {path} ...")
                self._load_state(name, checkpoint.pop(name), path)
        return checkpoint

    def _check_loaded(self, incompatible: Any, path: str) -> None:
        """Raise if nothing of a file fits, or, with `require_head`, if predictions lack weights."""
        parameters = {key for key, _ in self.model.named_parameters()}
        missing = set(incompatible.missing_keys)
        shapes = {key: (theirs, ours) for key, theirs, ours in incompatible.incorrect_shapes}
        # Parameters if there are any: torch does not report missing step counts of batch norms
        # for a file without versions
        if (parameters or set(self.model.state_dict())) <= missing | shapes.keys():
            raise CheckpointError(
                f"{path}: none of its tensors fits this model by name and shape; set MODEL.WEIGHTS "
                "to weights of this model, or try tools/convert_checkpoint.py"
            )
        if not self.require_head:
            return
        for key, (theirs, ours) in shapes.items():
            raise CheckpointError(
                f"{path}: {key} is {tuple(theirs)} in the file, but {tuple(ours)} in the model; "
                "use the config that it was trained with (another class tree?)"
            )
        head = {key for key in parameters if key.startswith("sem_seg_head.")}
        if head and head <= missing:
            raise CheckpointError(
                f"{path}: no segmentation head among its weights (those of a backbone only?); set "
                "MODEL.WEIGHTS to a trained model"
            )
        trained = {key for key in missing if key in parameters or key.endswith(_STATISTICS)}
        if absent := sorted(trained - training_only(self.model)):
            raise CheckpointError(
                f"{path}: no weights for {listing(absent, 3)}, on which predictions depend; use "
                "the config that it was trained with"
            )

    def _local_path(self, path: str) -> str:
        if problem := weights_source_problem(path):
            raise CheckpointError(f"weights {path}: {problem}")
        if remote_scheme(path):  # warnings are shown even if logging is not set up
            self.logger.warning(f"Loading weights from the network (or its cache): {path}")
        try:
            local = self.path_manager.get_local_path(path)
        except CheckpointError:  # of a package; the message is complete
            raise
        except Exception as error:  # downloads fail with almost any error
            raise CheckpointError(
                f"{path}: download failed ({error}); set MODEL.WEIGHTS to a local copy of the file"
            ) from error
        if not os.path.exists(local):
            raise CheckpointError(f"{path}: no such checkpoint file; check MODEL.WEIGHTS")
        return local

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Return the content of a file in any of Detectron2's formats, its tensors as "model"."""
        content = read_file(filename)
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{filename}: holds a {type(content).__name__}, not a dict of tensors by name; "
                "save model.state_dict()"
            )
        content = dict(content)
        if "model" in content:
            pass
        elif "model_state" in content:  # of pycls
            state = _without(content["model_state"], "num_batches_tracked")
            content = {"model": state, "matching_heuristics": True}
        elif "blobs" in content or filename.endswith(".pkl"):
            self.logger.info(f"Reading {filename} as a file of Detectron 1, with Caffe2's names")
            state = _without(content.get("blobs", content), "_momentum")
            content = {"model": state, "__author__": "Caffe2", "matching_heuristics": True}
        elif isinstance(content.get("state_dict"), Mapping):
            raise CheckpointError(
                f'{filename}: its weights are under "state_dict", as in other projects; convert it '
                "by tools/convert_checkpoint.py"
            )
        else:
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
            raise CheckpointError(
                f'{path}: invalid class tree under "{TREE_KEY}": {error}; use an intact checkpoint'
            ) from error
        layers = class_layers(self.model)
        rows = checkpoint.pop(ROWS_KEY, None)
        for name, own in layers.items():
            # Shapes are equal if "no object" has the place of the only inner node
            if isinstance(rows, Mapping) and rows.get(name, own) != own:
                raise CheckpointError(
                    f"{path}: the rows of {name} are {rows[name]}, but {own} in this model; use "
                    "the config that it was trained with (MODEL.HIERA_SEG.MASK_FORMER.OPTION?)"
                )
        differs = difference(theirs, ours)
        if not differs:
            return
        trees = (
            f"{path}: trained under tree {theirs.name!r} ({theirs.num_nodes} nodes), but this "
            f"model has tree {ours.name!r} ({ours.num_nodes} nodes): {differs}"
        )
        if resumes:
            raise CheckpointError(
                f"{trees}; a run can only be resumed under its own tree: start another one in a "
                f"new OUTPUT_DIR, with MODEL.WEIGHTS {path} and {MAP_KEY} True"
            )
        if not self.map_classes:
            raise CheckpointError(
                f"{trees}; set MODEL.HIERA_SEG.HIERARCHY to the tree of the weights, or {MAP_KEY} "
                "True to move the rows of its nodes by their names"
            )
        own = self.model.state_dict()
        missing = move_rows(checkpoint["model"], own, layers, theirs, ours)
        for name, state in checkpoint.items():  # such as averaged weights
            if name != "model" and isinstance(state, dict) and layers.keys() <= state.keys():
                move_rows(state, own, layers, theirs, ours)
        if missing and self.require_head:
            raise CheckpointError(
                f"{path}: no weights for {', '.join(missing)} of tree {ours.name!r}, which its own "
                "tree does not have; train the model first, or use a tree that it covers"
            )
        found = ours.num_nodes - len(missing)
        self.logger.info(f"{path}: weights for {found} of {ours.num_nodes} nodes, matched by name")
        if missing:
            self.logger.warning(f"Randomly initialized nodes: {', '.join(missing)}")

    def _load_state(self, name: str, state: Any, path: str) -> None:
        try:
            self.checkpointables[name].load_state_dict(state)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f'{path}: the state of "{name}" does not fit this run '
                f"({type(error).__name__}: {reason}); to start a new run from its weights, set "
                "MODEL.WEIGHTS to it and omit --resume"
            ) from error

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``: model, class tree, and state of a run.

        Args:
            name: file name without suffix.
            kwargs: further plain data to store.

        Raises:
            CheckpointError: it cannot be written; the previous files are unchanged.
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
        write_checkpoint(path, data)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint from which a run resumes."""
        _replace(
            os.path.join(self.save_dir, "last_checkpoint"),
            lambda file: file.write(last_filename_basename.encode()),
        )

    def last_checkpoint(self) -> str:
        """Return the checkpoint that ``--resume`` continues from; "" if `save_dir` has none.

        Raises:
            CheckpointError: ``last_checkpoint`` names a file that does not exist.
        """
        if not self.has_checkpoint():
            return ""
        last = self.get_checkpoint_file()
        if not os.path.isfile(last):
            there = sorted(os.path.basename(path) for path in self.get_all_checkpoint_files())
            raise CheckpointError(
                f"{os.path.join(self.save_dir, 'last_checkpoint')}: names "
                f"{os.path.basename(last)!r}, which does not exist; write one of these into it, or "
                f"set MODEL.WEIGHTS: {', '.join(there) or '(the folder has no checkpoint)'}"
            )
        return last

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last checkpoint of ``save_dir`` with all state, or else the weights of a file.

        Raises:
            CheckpointError: see :meth:`load` and :meth:`last_checkpoint`.
        """
        resume = resume and bool(self.last_checkpoint())
        content = super().resume_or_load(path, resume=resume)
        if resume:
            self.run_id = content.get("run_id", self.run_id)
        return content


def write_checkpoint(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write what torch.save can write atomically.

    Raises:
        CheckpointError: it cannot be written; a previous file is unchanged.
    """
    _replace(path, lambda file: torch.save(data, file))


def _replace(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        replace_file(path, write)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror}; previous checkpoints are unchanged"
        ) from error


def check_values(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Raise CheckpointError if the tensors of a model cannot hold the values of given tensors.

    That is a tensor of integers or complex numbers for a parameter of floats, or one of NaN only.
    Names that the model lacks are ignored; the message names the file `path` and the tensor.
    """
    own = model.state_dict()
    for name, value in state.items():
        target = own.get(name)
        reason = misfit(value, target) if isinstance(target, Tensor) else ""
        if reason:
            raise CheckpointError(
                f"{path}: tensor {name} {reason}; use an intact checkpoint of floats"
            )


def split_query(path: str) -> tuple[str, bool]:
    """Return a path without the query of Detectron2's main, and whether it asks for heuristics."""
    query = urlsplit(path).query
    if parse_qs(query).get("matching_heuristics") != ["True"] or os.path.exists(path):
        return path, False
    return path.removesuffix(f"?{query}"), True


def _without(state: Any, ending: str) -> Any:
    named = isinstance(state, Mapping)
    return {k: v for k, v in state.items() if not str(k).endswith(ending)} if named else state


def _state(state: Any, path: str) -> dict[str, Any]:
    """Return tensors by name, made of tensors or arrays, without the prefix of a DDP wrapper."""
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
            f"{path}: expected tensors by name, found {found or 'nothing'}; save model.state_dict()"
        )
    if all(name.startswith(_WRAPPER) for name in tensors):
        return {name.removeprefix(_WRAPPER): value for name, value in tensors.items()}
    return tensors
