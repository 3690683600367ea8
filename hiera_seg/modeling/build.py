"""Build the model of a config."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_unchecked_model
from torch import nn

from hiera_seg.config import check_config


def build_model(cfg: CfgNode) -> nn.Module:
    """Check the MODEL keys of a config and build the model as Detectron2's ``build_model`` does.

    Raises:
        ConfigError: a key of the package has an invalid value, or a part is not registered.
    """
    check_config(cfg, "MODEL.")
    return build_unchecked_model(cfg)
