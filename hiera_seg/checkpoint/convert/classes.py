"""Class layers between label sets: rows move by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hiera_seg.checkpoint.trees import plain_name
from hiera_seg.errors import ConfigError, HierarchyError
from hiera_seg.hierarchy import Hierarchy


class ClassRows(NamedTuple):
    """Which row of a class layer goes where.

    Attributes:
        source: int64 (K,), rows of the checkpoint's layer.
        target: int64 (K,), the leaves that they become.
        missing: names of the leaves that the checkpoint does not know.
    """

    source: Tensor
    target: Tensor
    missing: list[str]


def read_class_names(source: str) -> list[str]:
    """Class names in the order of a checkpoint's rows.

    Args:
        source: a built-in tree or a file of one, whose leaves they are; or a .txt file with a name
            a line.

    Raises:
        ConfigError: neither can be read.
    """
    try:
        if source.endswith(".txt"):
            lines = Path(source).read_text(encoding="utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
        tree = Hierarchy.load(source)
    except UnicodeDecodeError as error:
        raise ConfigError(f"class names {source}: the file is not UTF-8 text") from error
    except (OSError, HierarchyError) as error:
        raise ConfigError(f"class names {source}: {error}") from error
    return list(tree.display_names[: tree.num_leaves])


def match_classes(names: Sequence[str], hierarchy: Hierarchy) -> ClassRows:
    """Find the leaf of each class name; case and punctuation do not count.

    Args:
        names: of the checkpoint's rows.
        hierarchy: whose leaves are wanted.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        rows.setdefault(plain_name(name), row)
    leaves = hierarchy.display_names[: hierarchy.num_leaves]
    found = [
        next((rows[plain_name(x)] for x in (shown, path) if plain_name(x) in rows), None)
        for shown, path in zip(leaves, hierarchy.paths, strict=False)
    ]
    target = [leaf for leaf, row in enumerate(found) if row is not None]
    return ClassRows(
        torch.tensor([found[leaf] for leaf in target], dtype=torch.long),
        torch.tensor(target, dtype=torch.long),
        [leaves[leaf] for leaf, row in enumerate(found) if row is None],
    )


def remap_leaf_softmax(source: Tensor, own: Tensor, rows: ClassRows) -> Tensor:
    """Rows of classes and "no object" (last) into a layer of leaves and "no object".

    Args:
        source: (S + 1, ...) of the checkpoint.
        own: (L + 1, ...) whose rows stay where the checkpoint has none.
    """
    result = own.clone()
    result[rows.target] = source[rows.source].to(own.dtype)
    result[-1] = source[-1].to(own.dtype)
    return result


def remap_node_sigmoid(source: Tensor, own: Tensor, rows: ClassRows) -> Tensor:
    """Rows of a softmax over classes and "no object" into a layer of one sigmoid a node.

    A leaf gets the difference to "no object": its sigmoid then is the softmax between these two.
    Inner nodes have no such row and stay.

    Args:
        source: (S + 1, ...) of the checkpoint.
        own: (N, ...).
    """
    result = own.clone()
    result[rows.target] = (source[rows.source] - source[-1]).to(own.dtype)
    return result
