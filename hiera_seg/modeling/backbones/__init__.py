"""Backbones beyond Detectron2's own."""

from hiera_seg.modeling.backbones.timm import TimmBackbone, build_hiera_timm_backbone

__all__ = ["TimmBackbone", "build_hiera_timm_backbone"]
