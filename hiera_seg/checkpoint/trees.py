"""Compare the class trees of checkpoints and models, and move rows of class layers between them.

A module whose tensors have one row per node or leaf lists them in ``class_rows``, for example
``{"predictor": "nodes"}`` for ``self.predictor``.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hiera_seg.hierarchy import Hierarchy
from hiera_seg.hierarchy.messages import listing

TREE_KEY, ROWS_KEY = "hierarchy", "class_rows"  # of a checkpoint


def tree_entries(model: nn.Module) -> dict[str, Any]:
    """Return the entries of a checkpoint for the tree of a model, as plain data."""
    hierarchy = tree_of(model)
    if hierarchy is None:
        return {}
    return {TREE_KEY: hierarchy.to_dict(), ROWS_KEY: class_layers(model)}


def tree_of(model: nn.Module) -> Hierarchy | None:
    """Return the class tree of a model, or None if it has none."""
    # Stock meta-architectures have no tree, but the heads of this package in them do
    owner = model if hasattr(model, "hierarchy") else getattr(model, "sem_seg_head", None)
    hierarchy = getattr(owner, "hierarchy", None)
    return hierarchy if isinstance(hierarchy, Hierarchy) else None


def class_layers(model: nn.Module) -> dict[str, str]:
    """Return the tensors of a model that have rows of its tree.

    Returns:
        For each name in the ``state_dict``: "nodes", "leaves" or "leaves_and_none" (with a last
        row for no object).
    """
    layers = {}
    names = model.state_dict().keys()
    for prefix, module in model.named_modules():
        for layer, rows in getattr(module, "class_rows", {}).items():
            start = f"{prefix}.{layer}." if prefix else f"{layer}."
            layers.update({name: rows for name in names if name.startswith(start)})
    return layers


def training_only(model: nn.Module) -> set[str]:
    """Return the names of the tensors of modules with a true attribute ``training_only``."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if getattr(module, "training_only", False)
        for name in module.state_dict()
    }


def difference(theirs: Hierarchy, ours: Hierarchy) -> str:
    """Describe how the nodes of two trees, or their numbering, differ; "" if they do not.

    Names of trees and levels are ignored, because no weight depends on them.
    """
    if theirs.paths == ours.paths:
        return ""
    known, wanted = set(theirs.paths), set(ours.paths)
    missing = [path for path in ours.paths if path not in known]
    gone = [path for path in theirs.paths if path not in wanted]
    parts = [f"lacks {listing(missing, 3)}"] if missing else []
    parts += [f"has {listing(gone, 3)}, which this tree lacks"] if gone else []
    return f"it {' and '.join(parts)}" if parts else "its nodes have another order"


def match_nodes(theirs: Hierarchy, ours: Hierarchy) -> dict[int, int]:
    """Find the nodes of one tree in another.

    A node is found by its path, else by its bare name if exactly one leaf, or one inner node, of
    each tree has it. Case and punctuation of bare names are ignored.

    Returns:
        For each id of `ours` that was found, the id of `theirs`.
    """
    by_path = {path: v for v, path in enumerate(theirs.paths)}
    found = {v: by_path[path] for v, path in enumerate(ours.paths) if path in by_path}
    their_names, our_names = _unique_names(theirs), _unique_names(ours)
    taken = set(found.values())
    for name, v in our_names.items():
        if v not in found and their_names.get(name, -1) not in taken | {-1}:
            found[v] = their_names[name]
    return found


def move_rows(
    state: dict[str, Tensor],
    own: Mapping[str, Tensor],
    layers: Mapping[str, str],
    theirs: Hierarchy,
    ours: Hierarchy,
) -> list[str]:
    """Reorder the rows of class layers from a checkpoint's tree to a model's.

    Args:
        state: the checkpoint's tensors by name; those of `layers` are replaced.
        own: the model's tensors, which provide the rows that the checkpoint lacks.
        layers: see :func:`class_layers`.
        theirs: the checkpoint's tree.
        ours: the model's tree.

    Returns:
        Paths of the nodes whose rows are not in the checkpoint.
    """
    match = match_nodes(theirs, ours)
    wanted = set()
    for name, kind in layers.items():
        if name not in state or name not in own:
            continue
        num_theirs, num_ours = (
            h.num_nodes if kind == "nodes" else h.num_leaves for h in (theirs, ours)
        )
        extra = int(kind == "leaves_and_none")
        source, target = state[name], own[name].clone()
        if source.shape != (num_theirs + extra, *target.shape[1:]):
            continue  # of another width: reported like any tensor that does not fit
        rows = [(v, u) for v, u in match.items() if v < num_ours and u < num_theirs]
        if rows:
            to, of = torch.tensor(rows).T
            target[to] = source[of].to(target)
        if extra:
            target[-1] = source[-1].to(target)
        state[name] = target
        wanted |= set(range(num_ours)) - {v for v, _ in rows}
    return [ours.paths[v] for v in sorted(wanted)]


def plain_name(name: str) -> str:
    """Return a class name without case and punctuation, unless it has nothing else."""
    plain = "".join(c if c.isalnum() else " " for c in name.casefold())
    return " ".join(plain.split()) or name


def _unique_names(h: Hierarchy) -> dict[tuple[bool, str], int]:
    """Return the nodes whose (is a leaf, plain name) is unique, by that key."""
    keys = [(v < h.num_leaves, plain_name(name)) for v, name in enumerate(h.node_names)]
    counts = Counter(keys)
    return {key: v for v, key in enumerate(keys) if counts[key] == 1}
