"""Convert a checkpoint of another project, and report what became of each tensor."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hiera_seg.checkpoint import TREE_KEY, read_checkpoint
from hiera_seg.checkpoint.convert.classes import (
    match_classes,
    read_class_names,
    remap_leaf_softmax,
    remap_node_sigmoid,
)
from hiera_seg.checkpoint.convert.mask2former import CLASS_LAYERS, convert_mask2former
from hiera_seg.checkpoint.convert.mmseg import convert_mmseg
from hiera_seg.disk import replace_file
from hiera_seg.errors import CheckpointError, ConfigError
from hiera_seg.hierarchy import Hierarchy

State = dict[str, Tensor]


@dataclass(frozen=True)
class Converter:
    """What is to be known of a project whose checkpoints can be converted.

    Attributes:
        rename: from its names to ours.
        class_layers: our names of tensors with a row for each of its classes and a last one for
            "no object", which are re-mapped by class name; other tensors need our shapes.
    """

    rename: Callable[[Mapping[str, Tensor]], State]
    class_layers: Sequence[str] = ()


CONVERTERS: dict[str, Converter] = {
    "mask2former": Converter(convert_mask2former, CLASS_LAYERS),
    "mmseg": Converter(convert_mmseg),
}


@dataclass
class ConversionReport:
    """What became of the tensors of a checkpoint and of a network.

    Attributes:
        loaded: names of the network's tensors that the checkpoint gave.
        skipped: the checkpoint's tensors that were not used, by name, with the reason.
        initialized: the network's tensors that the checkpoint does not have, or not of that
            shape; they hold their random start.
        notes: a line each about layers that were loaded in part.
    """

    loaded: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    initialized: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as text; tensors of one part of the network share a line."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        lines = [f"loaded: {len(self.loaded)} tensors", *_by_part(self.loaded)]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"skipped: {len(self.skipped)} tensors of the checkpoint")
        for reason, names in reasons.items():
            lines += [f"{line}: {reason}" for line in _by_part(names)]
        lines.append(f"re-initialised: {len(self.initialized)} tensors of the network")
        return lines + _by_part(self.initialized)


def convert_checkpoint(
    path: str | Path, project: str, model: nn.Module, *, classes: str | None = None
) -> tuple[State, ConversionReport]:
    """Make a checkpoint of another project fit a network.

    Args:
        path: the file.
        project: one of `CONVERTERS`.
        model: the network, on a CPU, with ``sem_seg_head.hierarchy``; it is not changed.
        classes: names of the checkpoint's classes, see `read_class_names`; None: they are the
            leaves of the network's tree, in order.

    Returns:
        All tensors of the network by name, and the report.

    Raises:
        CheckpointError: the file can not be read, or nothing in it fits.
        ConfigError: ``classes`` are needed, do not fit, or have no use.
    """
    converter = CONVERTERS[project]
    if classes is not None and not converter.class_layers:
        raise ConfigError(
            f"classes {classes} were named, but channels of {project} are not re-mapped: they are "
            "the nodes of the config's tree in order"
        )
    given = converter.rename(read_checkpoint(path))
    state = dict(model.state_dict())
    report = ConversionReport()
    _remap_classes(given, state, converter.class_layers, model.sem_seg_head, classes, report)

    remapped = set(report.loaded)
    for name, value in given.items():
        if name in remapped:
            continue
        if name not in state:
            computed = name.endswith("relative_position_index")  # of Swin, from its window's size
            reason = "the network computes it" if computed else "the network has no such tensor"
            report.skipped[name] = reason
        elif state[name].shape != value.shape:
            report.skipped[name] = f"it is {_size(value)}, the network's {_size(state[name])}"
        else:
            state[name] = value.to(state[name].dtype)
            report.loaded.append(name)
    if not report.loaded:
        raise CheckpointError(
            f"{path}: not one of its {len(given)} tensors fits the network; is it a checkpoint of "
            f"{project}? It holds {', '.join(list(given)[:3])}, ..."
        )
    loaded = set(report.loaded)
    report.initialized = [
        name
        for name in state
        # a count of training steps, which nothing reads
        if name not in loaded and not name.endswith("num_batches_tracked")
    ]
    return {name: value.clone() for name, value in state.items()}, report


def save_checkpoint(state: State, path: str | Path, hierarchy: Hierarchy) -> None:
    """Write tensors as a checkpoint that MODEL.WEIGHTS can name.

    Args:
        state: tensors by name.
        path: the file.
        hierarchy: the tree of the network, which the checkpoint stores.

    Raises:
        CheckpointError: the file can not be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        data = {"model": state, TREE_KEY: hierarchy.to_dict()}
        replace_file(path, lambda file: torch.save(data, file))
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path}: cannot be written: {error.strerror}"
        ) from error


def _remap_classes(
    given: State,
    state: State,
    layers: Sequence[str],
    head: nn.Module,
    classes: str | None,
    report: ConversionReport,
) -> None:
    """Put the rows of class layers where they belong in ``state``, and say so in the report."""
    layers = [name for name in layers if name in given and name in state]
    if not layers:
        if classes is not None:
            raise ConfigError(
                f"{classes} names classes (--classes), but the checkpoint has no class layer that "
                "the network has too"
            )
        return
    hierarchy = head.hierarchy
    count = given[layers[0]].shape[0] - 1
    if classes is not None:
        names = read_class_names(classes)
        if len(names) != count:
            raise ConfigError(
                f"{classes} names {len(names)} classes; the checkpoint's class layer has {count} "
                'and "no object"'
            )
    elif count == hierarchy.num_leaves:
        names = list(hierarchy.display_names[:count])
    else:
        raise ConfigError(
            f'the checkpoint has {count} classes and "no object", tree {hierarchy.name!r} has '
            f"{hierarchy.num_leaves} leaves: name the checkpoint's classes (--classes), a tree "
            "whose leaves they are or a .txt file with a name a line"
        )
    rows = match_classes(names, hierarchy)
    softmax = state[layers[0]].shape[0] == hierarchy.num_leaves + 1
    remap = remap_leaf_softmax if softmax else remap_node_sigmoid
    for name in layers:
        if given[name].shape[1:] != state[name].shape[1:]:
            return  # of another width: reported as any tensor that does not fit
    for name in layers:
        state[name] = remap(given[name], state[name], rows)
        report.loaded.append(name)
    report.notes.append(
        f"class layer: {len(rows.target)} of {hierarchy.num_leaves} leaves by name"
        + (f"; not in the checkpoint: {', '.join(rows.missing)}" if rows.missing else "")
    )
    if classes is None:
        report.notes.append(
            f"class layer: the checkpoint's {count} classes were taken to be the leaves of tree "
            f"{hierarchy.name!r} in order; if they are not, name them (--classes)"
        )
    if not softmax:
        report.notes.append(
            "class layer: leaves are relative to no object; inner nodes are re-initialised"
        )


def _by_part(names: Iterable[str]) -> list[str]:
    """A line for each part of the network: "  backbone.res2 (12)"."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return [f"  {part} ({count})" for part, count in counts.items()]


def _size(x: Tensor) -> str:
    return " x ".join(map(str, x.shape)) or "a number"
