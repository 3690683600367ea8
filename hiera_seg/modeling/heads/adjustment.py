"""The adjustment of a head's logits that a config asks for."""

from collections.abc import Iterable

from detectron2.config import CfgNode

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.layers.sibling_adjustment import SiblingAdjustment
from hiera_seg.losses import read_node_counts
from hiera_seg.modeling.decode import DECODE_KEY, decode_variant

KEY = "MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT"
_SOFTMAX = ("marginal", "marginal_path_sum", "level_softmax")


def build_sibling_adjustment(
    cfg: CfgNode, hierarchy: Hierarchy, loss_names: Iterable[str], *, kind: str = "logits"
) -> SiblingAdjustment | None:
    """Build what MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT asks for; None with TAU 0.

    Args:
        cfg: the whole config.
        hierarchy: the tree.
        loss_names: names of the losses that train the model.
        kind: what the head puts out, "logits" or "scores".

    Raises:
        ConfigError: a negative TAU, no FILE or one that can not be read, or a model that is not
            decoded by a softmax over leaves or one a level.
    """
    test = cfg.MODEL.HIERA_SEG.TEST
    tau, file = test.SIBLING_ADJUSTMENT.TAU, test.SIBLING_ADJUSTMENT.FILE
    if tau == 0:
        return None
    variant = decode_variant(test.DECODE, loss_names, kind=kind)
    if variant not in _SOFTMAX:
        raise ConfigError(
            f"{KEY}.TAU is {tau}, but {DECODE_KEY} is {variant!r} here: only a softmax over the "
            f"leaves or one a level can be adjusted, with {DECODE_KEY} one of {_SOFTMAX} "
            "(marginal_ce and level_ce train them)"
        )
    if not file:
        raise ConfigError(
            f"{KEY}.TAU is {tau}, but {KEY}.FILE is empty: name the pixel counts of the training "
            "set, a file of tools/count_nodes.py"
        )
    try:
        counts = read_node_counts(file, hierarchy)
        return SiblingAdjustment(hierarchy, counts, tau, by_level=variant == "level_softmax")
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from error
