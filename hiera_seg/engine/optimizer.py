"""Build the optimizer of a config: SGD or AdamW."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from torch import nn

from hiera_seg.errors import ConfigError


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that SOLVER.OPTIMIZER names.

    BASE_LR, the WEIGHT_DECAY keys, BIAS_LR_FACTOR and CLIP_GRADIENTS are those of Detectron2.
    CLIP_TYPE may also be "full_model", which clips the norm of all gradients together to CLIP_VALUE
    (Mask2Former's recipe). Only SGD uses MOMENTUM and NESTEROV. The learning rate of
    ``model.backbone`` is multiplied by BACKBONE_MULTIPLIER.

    Raises:
        ConfigError: SOLVER.OPTIMIZER is neither "SGD" nor "ADAMW".
    """
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    if solver.BACKBONE_MULTIPLIER != 1.0:
        groups = _scale_backbone(groups, model, solver.BACKBONE_MULTIPLIER)
    if solver.OPTIMIZER == "SGD":
        return _add_gradient_clipping(cfg, torch.optim.SGD)(
            groups, solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if solver.OPTIMIZER == "ADAMW":
        return _add_gradient_clipping(cfg, torch.optim.AdamW)(groups, solver.BASE_LR)
    raise ConfigError(f'SOLVER.OPTIMIZER is "{solver.OPTIMIZER}"; choose "SGD" or "ADAMW"')


def _add_gradient_clipping(
    cfg: CfgNode, kind: type[torch.optim.Optimizer]
) -> type[torch.optim.Optimizer]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not (clip.ENABLED and clip.CLIP_TYPE == "full_model"):
        return maybe_add_gradient_clipping(cfg, kind)
    limit, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE

    class ClipsFullModel(kind):
        def step(self, closure=None):
            values = [value for group in self.param_groups for value in group["params"]]
            nn.utils.clip_grad_norm_(values, limit, norm_type)
            return super().step(closure)

    ClipsFullModel.__name__ = f"{kind.__name__}ClippingFullModel"
    return ClipsFullModel


def _scale_backbone(groups: list[dict], model: nn.Module, factor: float) -> list[dict]:
    backbone = set(model.backbone.parameters())
    single = [{**group, "params": [value]} for group in groups for value in group["params"]]
    for group in single:
        if group["params"][0] in backbone:
            group["lr"] *= factor
    return reduce_param_groups(single)
