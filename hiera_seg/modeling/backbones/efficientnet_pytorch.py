"""Translate the tensor names of efficientnet-pytorch (github.com/lukemelas) to those of timm.

Both build the EfficientNets of Tan and Le (ICML 2019) from the same layers. timm numbers blocks
within stages, efficientnet-pytorch over the whole network; timm numbers the batch norms of every
block from 1, even without expansion.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from hiera_seg.errors import CheckpointError

MARK = "_conv_stem.weight"  # only in their files
OUTSIDE_BLOCKS = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}
SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
WITH_EXPANSION = SQUEEZE | {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
WITHOUT_EXPANSION = SQUEEZE | {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
}


def translate(state: Mapping[str, Tensor], names: Iterable[str], path: str) -> dict[str, Tensor]:
    """Rename the tensors of an efficientnet-pytorch file to timm's names.

    Args:
        state: tensors by efficientnet-pytorch's names.
        names: the tensor names of the whole timm model, including its classifier.
        path: the file, for messages.

    Returns:
        The tensors by timm's names, one per name in ``names``.

    Raises:
        CheckpointError: the file lacks a tensor of the model, or has one that the model lacks.
    """
    theirs = foreign_names(names)
    missing = [name for name in theirs.values() if name not in state]
    left_over = sorted(state.keys() - theirs.values())
    if missing or left_over:
        found = f"{len(missing)} tensors of the model are missing" + _first(missing)
        raise CheckpointError(
            f"{path}: a file of efficientnet-pytorch, but {found}, and {len(left_over)} others are "
            f"left over{_first(left_over)}; set MODEL.HIERA_SEG.TIMM.NAME to the model of the file"
        )
    return {name: state[foreign] for name, foreign in theirs.items()}


def foreign_names(names: Iterable[str]) -> dict[str, str]:
    """Return the efficientnet-pytorch name for each tensor name of a timm EfficientNet."""
    names = list(names)
    blocks = dict.fromkeys(_split(name)[0] for name in names if name.startswith("blocks."))
    number = {block: i for i, block in enumerate(sorted(blocks, key=_place))}
    expands = {block for block in blocks if f"{block}.conv_pwl.weight" in names}
    found = {}
    for name in names:
        block, layer, tensor = _split(name)
        if block:
            table = WITH_EXPANSION if block in expands else WITHOUT_EXPANSION
            foreign = f"_blocks.{number[block]}.{table.get(layer, layer)}"
        else:
            foreign = OUTSIDE_BLOCKS.get(layer, layer)
        found[name] = f"{foreign}.{tensor}"
    return found


def _split(name: str) -> tuple[str, str, str]:
    """Split a timm name into block ("" outside of blocks), layer and tensor."""
    layer, _, tensor = name.rpartition(".")
    if not name.startswith("blocks."):
        return "", layer, tensor
    blocks, stage, index, layer = layer.split(".", 3)
    return f"{blocks}.{stage}.{index}", layer, tensor


def _place(block: str) -> tuple[int, ...]:
    return tuple(int(part) for part in block.split(".")[1:])


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""
