"""Build the optimizer of a config: SGD or AdamW."""

import functools

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from torch import nn

from hiera_seg.compat import has_fused_kernel
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
    kinds = {"SGD": torch.optim.SGD, "ADAMW": torch.optim.AdamW}
    if solver.OPTIMIZER not in kinds:
        raise ConfigError(f'SOLVER.OPTIMIZER is "{solver.OPTIMIZER}"; choose "SGD" or "ADAMW"')
    kind, options = kinds[solver.OPTIMIZER], {}
    if solver.OPTIMIZER == "SGD":
        options = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    # On a GPU torch's default is as fast, and a fused step would clip gradients before the scaler
    # of float16 has unscaled them.
    on_cpu = all(value.device.type == "cpu" for value in model.parameters())
    if on_cpu and has_fused_kernel(kind):
        options["fused"] = True
    optimizer = _add_gradient_clipping(cfg, kind)(groups, solver.BASE_LR, **options)
    fused = options.get("fused")
    optimizer.register_load_state_dict_post_hook(functools.partial(_fit_state, fused=fused))
    return optimizer


def _fit_state(optimizer: torch.optim.Optimizer, fused: bool | None) -> None:
    """Fit a loaded state to this run: its memory formats, and whether the step is fused.

    A fused kernel reads a weight and its momentum in the order of their memory, and would mix
    values if a run is resumed with another MODEL.CHANNELS_LAST.
    """
    for group in optimizer.param_groups:
        group["fused"] = fused
    for value, state in optimizer.state.items():
        for name, x in state.items():
            if isinstance(x, torch.Tensor) and x.shape == value.shape:
                state[name] = torch.empty_like(value, dtype=x.dtype).copy_(x)


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
