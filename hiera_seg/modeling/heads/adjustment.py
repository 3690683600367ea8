"""Build the sibling adjustment of logits from a config."""

from collections.abc import Iterable

from detectron2.config import CfgNode

from hiera_seg.checkpoint import local_path
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
    """Build the adjustment of MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT, or None if TAU is 0.

    Raises:
        ConfigError: a negative TAU, no FILE or an unreadable one, or a model that is not decoded by
            a softmax over leaves or per level.
    """
    test = cfg.MODEL.HIERA_SEG.TEST
    tau, file = test.SIBLING_ADJUSTMENT.TAU, test.SIBLING_ADJUSTMENT.FILE
    if tau == 0:
        return None
    variant = decode_variant(test.DECODE, loss_names, kind=kind)
    if variant not in _SOFTMAX:
        raise ConfigError(
            f"{KEY}.TAU is {tau}, but {DECODE_KEY} is {variant!r}, which has no softmax over the "
            f"leaves or per level; set {DECODE_KEY} to one of {_SOFTMAX}, for a model trained with "
            "marginal_ce or level_ce"
        )
    try:
        counts = read_node_counts(local_path(file), hierarchy)
        return SiblingAdjustment(hierarchy, counts, tau, by_level=variant == "level_softmax")
    except ValueError as error:
        raise ConfigError(
            f"{KEY}.FILE is {file!r}: {error}; set it to the pixel counts of the training set, "
            "written by tools/count_nodes.py"
        ) from error
