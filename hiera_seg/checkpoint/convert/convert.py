"""Convert checkpoints of other projects, with a report on every tensor."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hiera_seg.checkpoint import TREE_KEY, read_checkpoint
from hiera_seg.checkpoint.checkpointer import check_values, write_checkpoint
from hiera_seg.checkpoint.convert.mask2former import CLASS_LAYERS, convert_mask2former
from hiera_seg.checkpoint.convert.mmseg import convert_mmseg
from hiera_seg.checkpoint.trees import plain_name
from hiera_seg.errors import CheckpointError, ConfigError, HierarchyError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.messages import listing

State = dict[str, Tensor]


@dataclass(frozen=True)
class Converter:
    """The rules for converting the checkpoints of a project.

    Attributes:
        rename: maps its tensors by name to those of this package.
        class_layers: names (of this package) of tensors with one row per class and a last one for
            "no object", which are re-mapped by class name; other tensors must have equal shapes.
    """

    rename: Callable[[Mapping[str, Tensor]], State]
    class_layers: Sequence[str] = ()


CONVERTERS: dict[str, Converter] = {
    "mask2former": Converter(convert_mask2former, CLASS_LAYERS),
    "mmseg": Converter(convert_mmseg),
}


@dataclass
class ConversionReport:
    """Which tensors of a checkpoint and of a network were used.

    Attributes:
        loaded: names of the network's tensors that were loaded.
        skipped: the checkpoint's tensors that were not used, by name, with the reason.
        initialized: the network's tensors that are missing in the checkpoint or have another shape
            there, and stay randomly initialized.
        notes: lines about layers that were loaded in part.
    """

    loaded: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    initialized: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as text, with one line per part of the network."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        lines = [f"loaded: {len(self.loaded)} tensors", *_by_part(self.loaded)]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"skipped: {len(self.skipped)} tensors of the checkpoint")
        for reason, names in reasons.items():
            lines += [f"{line}: {reason}" for line in _by_part(names)]
        lines.append(f"randomly initialized: {len(self.initialized)} tensors of the network")
        return lines + _by_part(self.initialized)


def convert_checkpoint(
    path: str | Path, project: str, model: nn.Module, *, classes: str | None = None
) -> tuple[State, ConversionReport]:
    """Convert a checkpoint of another project to the tensors of a network.

    Args:
        path: the file.
        project: one of `CONVERTERS`.
        model: the network, on the CPU, with ``sem_seg_head.hierarchy``; it is not changed.
        classes: names of the checkpoint's classes, see `read_class_names`; None: they are the
            leaves of the network's tree, in order.

    Returns:
        All tensors of the network by name, and the report.

    Raises:
        CheckpointError: the file cannot be read, nothing in it fits, or a tensor has values that
            the network cannot have.
        ConfigError: ``classes`` are required, do not fit, or cannot be used.
    """
    converter = CONVERTERS[project]
    if classes is not None and not converter.class_layers:
        raise ConfigError(
            f"--classes {classes}: the channels of {project} are the nodes of the config's tree in "
            "order and are not re-mapped; omit --classes"
        )
    given = converter.rename(read_checkpoint(path))
    check_values(model, given, str(path))
    state = dict(model.state_dict())
    report = ConversionReport()
    _remap_classes(given, state, converter.class_layers, model.sem_seg_head, classes, report)

    remapped = set(report.loaded)
    for name, value in given.items():
        if name in remapped:
            continue
        if name not in state:
            computed = name.endswith("relative_position_index")  # of Swin, from its window size
            reason = "the network computes it" if computed else "the network has no such tensor"
            report.skipped[name] = reason
        elif state[name].shape != value.shape:
            report.skipped[name] = f"it is {_size(value)}, the network's {_size(state[name])}"
        else:
            state[name] = value.to(state[name].dtype)
            report.loaded.append(name)
    if not report.loaded:
        raise CheckpointError(
            f"{path}: none of its {len(given)} tensors fits the network; expected a checkpoint of "
            f"{project}, found {listing(given, 3)}"
        )
    loaded = set(report.loaded)
    report.initialized = [
        name
        for name in state
        # a count of training steps that is never read
        if name not in loaded and not name.endswith("num_batches_tracked")
    ]
    return {name: value.clone() for name, value in state.items()}, report


def save_checkpoint(state: State, path: str | Path, hierarchy: Hierarchy) -> None:
    """Write tensors as a checkpoint for MODEL.WEIGHTS.

    Args:
        state: tensors by name.
        path: the file.
        hierarchy: the tree of the network, which is stored in the checkpoint.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_checkpoint(path, {"model": state, TREE_KEY: hierarchy.to_dict()})


def _remap_classes(
    given: State,
    state: State,
    layers: Sequence[str],
    head: nn.Module,
    classes: str | None,
    report: ConversionReport,
) -> None:
    """Re-map the rows of class layers in ``state``, and add them to the report."""
    layers = [name for name in layers if name in given and name in state]
    if not layers:
        if classes is not None:
            raise ConfigError(
                f"--classes {classes}: the checkpoint has no class layer of the network; omit "
                "--classes"
            )
        return
    hierarchy = head.hierarchy
    count = given[layers[0]].shape[0] - 1
    leaves = hierarchy.display_names[: hierarchy.num_leaves]
    names = leaves if classes is None else read_class_names(classes)
    if len(names) != count and classes is not None:
        raise ConfigError(
            f"--classes {classes}: {len(names)} classes, but the checkpoint's class layer has "
            f'{count} and "no object"; list its classes in order'
        )
    if len(names) != count:
        raise ConfigError(
            f'the checkpoint has {count} classes and "no object", tree {hierarchy.name!r} has '
            f"{len(leaves)} leaves; specify the checkpoint's classes (--classes): a tree with "
            "these leaves, or a .txt file with one name per line"
        )
    by_name = classes is not None
    rows = _match_classes(names, hierarchy) if by_name else {leaf: leaf for leaf in range(count)}
    softmax = "leaves_and_none" in head.class_rows.values()
    if any(given[name].shape[1:] != state[name].shape[1:] for name in layers):
        return  # of another width: reported like any tensor that does not fit
    for name in layers:
        state[name] = _remap_rows(given[name], state[name], rows, softmax=softmax)
        report.loaded.append(name)
    if by_name:
        missing = [name for leaf, name in enumerate(leaves) if leaf not in rows]
        report.notes.append(
            f"class layer: {len(rows)} of {hierarchy.num_leaves} leaves by name"
            + (f"; missing in the checkpoint: {', '.join(missing)}" if missing else "")
        )
    else:
        report.notes.append(
            f"class layer: assumed that the checkpoint's {count} classes are the leaves of tree "
            f"{hierarchy.name!r} in order; if not, specify them (--classes)"
        )
    if not softmax:
        report.notes.append(
            "class layer: leaves are relative to no object; inner nodes are randomly initialized"
        )


def read_class_names(source: str) -> list[str]:
    """Return the leaves of a built-in tree or of a tree's file, or the lines of a .txt file.

    Raises:
        ConfigError: the file or tree cannot be read.
    """
    try:
        if source.endswith(".txt"):
            lines = Path(source).read_text(encoding="utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
        tree = Hierarchy.load(source)
    except UnicodeDecodeError as error:
        raise ConfigError(f"class names {source}: not UTF-8 text; save it as UTF-8") from error
    except (OSError, HierarchyError) as error:
        raise ConfigError(f"class names {source}: {error}") from error
    return list(tree.display_names[: tree.num_leaves])


def _match_classes(names: Sequence[str], hierarchy: Hierarchy) -> dict[int, int]:
    """Return {leaf: row} of the leaves with given names.

    Case and punctuation are ignored where one name alone fits then.
    """
    rows = {name: row for row, name in reversed(list(enumerate(names)))}
    plain = [plain_name(name) for name in names]
    times = Counter(plain)
    similar = {key: row for row, key in enumerate(plain) if times[key] == 1}
    found = {}
    for leaf, spellings in enumerate(zip(hierarchy.display_names, hierarchy.paths, strict=True)):
        exact = (rows[key] for key in spellings if key in rows)
        others = (similar[key] for key in map(plain_name, spellings) if key in similar)
        row = next(exact, next(others, None))
        if leaf < hierarchy.num_leaves and row is not None:
            found[leaf] = row
    return found


def _remap_rows(source: Tensor, own: Tensor, rows: Mapping[int, int], *, softmax: bool) -> Tensor:
    """Move the rows of a softmax over classes and "no object" (last) to a network's class layer.

    `source` (S + 1, ...) is the checkpoint's layer, `rows` maps a leaf to its row. `own` keeps the
    rows that the checkpoint lacks: (L + 1, ...) for a softmax over leaves and "no object"; else
    (N, ...) with one sigmoid per node, where a leaf gets the difference to "no object", of which
    the sigmoid equals the softmax over the two.
    """
    result = own.clone()
    target, row = torch.tensor(list(rows.items()), dtype=torch.long).reshape(-1, 2).T
    moved = source[row] if softmax else source[row] - source[-1]
    result[target] = moved.to(own.dtype)
    if softmax:
        result[-1] = source[-1].to(own.dtype)
    return result


def _by_part(names: Iterable[str]) -> list[str]:
    """Return one line per part of the network: "  backbone.res2 (12)"."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return [f"  {part} ({count})" for part, count in counts.items()]


def _size(x: Tensor) -> str:
    return " x ".join(map(str, x.shape)) or "a number"
