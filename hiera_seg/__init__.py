"""Hierarchical semantic segmentation for Detectron2."""

from typing import Any

from hiera_seg.hierarchy import Hierarchy, HierarchyError

__version__ = "0.1.0"
__all__ = ["Hierarchy", "HierarchyError", "add_hiera_seg_config"]


def __getattr__(name: str) -> Any:
    # The lower floors (hierarchy, layers, metrics, losses) work without Detectron2, so only
    # asking for the config function imports it.
    if name == "add_hiera_seg_config":
        import hiera_seg.compat  # noqa: F401  (first: says how to install Detectron2)
        from hiera_seg.config import add_hiera_seg_config

        return add_hiera_seg_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
