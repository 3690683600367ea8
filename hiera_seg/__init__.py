"""Hierarchical semantic segmentation for Detectron2."""

from typing import TYPE_CHECKING

from hiera_seg.errors import CheckpointError, ConfigError, DatasetError, HierarchyError
from hiera_seg.hierarchy import Hierarchy

if TYPE_CHECKING:
    from detectron2.config import CfgNode

__version__ = "0.2.0"
__all__ = [
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "Hierarchy",
    "HierarchyError",
    "add_hiera_seg_config",
]


def add_hiera_seg_config(cfg: "CfgNode") -> None:
    """Add the keys of hiera_seg (and of Detectron2's DeepLab project) to a config.

    Call it right after ``get_cfg()``, or after the functions of other projects, whose values of
    shared keys (SOLVER.OPTIMIZER of Mask2Former) it keeps. It also registers the package's
    datasets, backbones, heads and meta-architecture. A loss that was registered before gets a
    config node of its name with the defaults of its options.

    Args:
        cfg: the config to extend in place.
    """
    # Imported here, because hierarchy, layers, metrics and losses work without Detectron2.
    import hiera_seg.data
    import hiera_seg.modeling  # noqa: F401  (imported to register what configs name)
    from hiera_seg.config.defaults import add_defaults

    add_defaults(cfg)
