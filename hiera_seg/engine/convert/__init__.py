"""Checkpoints of other projects, made loadable."""

from hiera_seg.engine.convert.mask2former import convert_mask2former

__all__ = ["convert_mask2former"]
