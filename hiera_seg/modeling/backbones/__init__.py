"""Build backbones that Detectron2 does not have."""

from hiera_seg.modeling.backbones.timm import TimmBackbone, build_hiera_timm_backbone
