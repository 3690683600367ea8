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
    """Return the tensors of an efficientnet-pytorch file by the names of the whole timm model.

    Raises:
        CheckpointError: the file lacks a tensor of the model, or has one that the model lacks.
    """
    theirs = foreign_names(names)
    missing = sorted(set(theirs.values()) - state.keys())
    left_over = sorted(state.keys() - theirs.values())
    if missing or left_over:
        raise CheckpointError(
            f"{path}: a file of efficientnet-pytorch, but {len(missing)} tensors of the model are "
            f"missing {missing[:1]}, and {len(left_over)} others are left over {left_over[:1]}; "
            "set MODEL.HIERA_SEG.TIMM.NAME to the model of the file"
        )
    return {name: state[foreign] for name, foreign in theirs.items()}


def foreign_names(names: Iterable[str]) -> dict[str, str]:
    """Return the efficientnet-pytorch name for each tensor name of a timm EfficientNet."""
    names = list(names)
    places = {_place(name) for name in names if name.startswith("blocks.")}
    number = {place: i for i, place in enumerate(sorted(places))}
    found = {}
    for name in names:
        layer, _, tensor = name.rpartition(".")
        if name.startswith("blocks."):
            stage, index = place = _place(name)
            layer = layer.split(".", 3)[3]
            expands = f"blocks.{stage}.{index}.conv_pwl.weight" in names
            table = WITH_EXPANSION if expands else WITHOUT_EXPANSION
            foreign = f"_blocks.{number[place]}.{table.get(layer, layer)}"
        else:
            foreign = OUTSIDE_BLOCKS.get(layer, layer)
        found[name] = f"{foreign}.{tensor}"
    return found


def _place(name: str) -> tuple[int, int]:
    """Return stage and index of the block of a tensor, such as "blocks.1.0.bn1.weight"."""
    _, stage, index, *_ = name.split(".")
    return int(stage), int(index)
