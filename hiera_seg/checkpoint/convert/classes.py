"""Move the rows of class layers between label sets by class name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hiera_seg.checkpoint.trees import plain_name
from hiera_seg.errors import ConfigError, HierarchyError
from hiera_seg.hierarchy import Hierarchy


class ClassRows(NamedTuple):
    """The rows of a checkpoint's class layer that belong to leaves of a tree.

    Attributes:
        source: int64 (K,), rows of the checkpoint's layer.
        target: int64 (K,), the ids of their leaves.
        missing: names of the leaves that the checkpoint lacks.
    """

    source: Tensor
    target: Tensor
    missing: list[str]


def read_class_names(source: str) -> list[str]:
    """Return class names in the order of a checkpoint's rows.

    Args:
        source: a built-in tree or the file of a tree, whose leaves are the classes; or a .txt file
            with one name per line.

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


def match_classes(names: Sequence[str], hierarchy: Hierarchy) -> ClassRows:
    """Find the leaves with given names; case and punctuation are ignored.

    Args:
        names: class names of the checkpoint's rows.
        hierarchy: the tree of the leaves.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        rows.setdefault(plain_name(name), row)
    leaves = hierarchy.display_names[: hierarchy.num_leaves]
    found = {}
    for leaf, spellings in enumerate(zip(leaves, hierarchy.paths, strict=False)):
        matches = [rows[plain_name(x)] for x in spellings if plain_name(x) in rows]
        if matches:
            found[leaf] = matches[0]
    return ClassRows(
        torch.tensor(list(found.values()), dtype=torch.long),
        torch.tensor(list(found), dtype=torch.long),
        [name for leaf, name in enumerate(leaves) if leaf not in found],
    )


def remap_rows(source: Tensor, own: Tensor, rows: ClassRows, *, softmax: bool) -> Tensor:
    """Move the rows of a softmax over classes and "no object" (last) to a network's class layer.

    Args:
        source: (S + 1, ...), the checkpoint's layer.
        own: the network's layer, which provides the rows that the checkpoint lacks.
        rows: see :func:`match_classes`.
        softmax: True: `own` (L + 1, ...) is a softmax over leaves and "no object". False: `own`
            (N, ...) has one sigmoid per node; a leaf gets the difference to "no object", so that
            its sigmoid equals the softmax over the two.
    """
    result = own.clone()
    moved = source[rows.source] if softmax else source[rows.source] - source[-1]
    result[rows.target] = moved.to(own.dtype)
    if softmax:
        result[-1] = source[-1].to(own.dtype)
    return result
