"""SOLVER.OPTIMIZER, the backbone's rate, and weight decay of norms and biases."""

import pytest
import torch
from torch import nn

from hiera_seg.compat import has_fused_kernel
from hiera_seg.engine import build_optimizer
from hiera_seg.errors import ConfigError
from tests.helpers import new_config


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


@pytest.fixture
def cfg():
    cfg = new_config()
    cfg.SOLVER.BASE_LR = 0.25
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    return cfg


def settings(optimizer, parameter) -> tuple[float, float]:
    for group in optimizer.param_groups:
        if any(parameter is value for value in group["params"]):
            return group["lr"], group["weight_decay"]
    raise AssertionError("a parameter is not optimised")


def test_sgd_is_the_default_with_momentum(cfg):
    cfg.SOLVER.MOMENTUM = 0.8
    optimizer = build_optimizer(cfg, Net())
    assert type(optimizer) is torch.optim.SGD
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}


KINDS = {"SGD": torch.optim.SGD, "ADAMW": torch.optim.AdamW}


@pytest.mark.parametrize("name", KINDS)
def test_rates_and_decay_of_each_part(cfg, name):
    cfg.SOLVER.OPTIMIZER = name
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    net = Net()
    optimizer = build_optimizer(cfg, net)
    assert isinstance(optimizer, KINDS[name])
    assert settings(optimizer, net.backbone[0].weight) == (0.125, 0.05)
    assert settings(optimizer, net.backbone[1].weight) == (0.125, 0.0)
    assert settings(optimizer, net.head.weight) == (0.25, 0.05)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(net.parameters())
    )


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("kind", "norm_type", "limit"),
    [("value", 2.0, 0.5), ("full_model", 2.0, 0.01), ("full_model", float("inf"), 0.5)],
)
def test_gradients_are_clipped_one_by_one_or_by_their_norm(cfg, name, kind, norm_type, limit):
    cfg.SOLVER.OPTIMIZER = name
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE = True, kind
    clip.CLIP_VALUE, clip.NORM_TYPE = limit, norm_type
    net = Net()
    optimizer = build_optimizer(cfg, net)
    assert isinstance(optimizer, KINDS[name])
    values = list(net.parameters())
    for i, value in enumerate(values):
        value.grad = torch.full_like(value, float(i))
    before = torch.cat([value.grad.flatten() for value in values])
    optimizer.step()
    after = torch.cat([value.grad.flatten() for value in values])
    scale = limit / before.norm(norm_type)
    expected = before.clamp(max=limit) if kind == "value" else before * scale
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=0)


def test_an_unknown_optimizer_is_refused(cfg):
    cfg.SOLVER.OPTIMIZER = "adam"
    with pytest.raises(ConfigError, match='SOLVER.OPTIMIZER is "adam".*"SGD" or "ADAMW"'):
        build_optimizer(cfg, Net())


@pytest.mark.parametrize("name", KINDS)
def test_a_run_resumes_with_another_memory_format(cfg, name):
    """The fused kernels read weights and momentum in the order of their memory."""
    cfg.SOLVER.OPTIMIZER = name
    gradients = torch.randn(3, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    def steps(formats) -> torch.Tensor:
        net = nn.Module()
        net.backbone, net.head = nn.Identity(), nn.Conv2d(3, 4, 2)
        nn.init.constant_(net.head.weight, 0.5)
        state = None
        for gradient, memory_format in zip(gradients, formats, strict=True):
            net.to(memory_format=memory_format)
            optimizer = build_optimizer(cfg, net)
            if state is not None:
                optimizer.load_state_dict(state)
            net.head.weight.grad = gradient.to(memory_format=memory_format)
            net.head.bias.grad = torch.zeros(4)
            optimizer.step()
            state = optimizer.state_dict()
        return net.head.weight.detach().contiguous()

    plain, turned = torch.contiguous_format, torch.channels_last
    expected = steps([plain, plain, plain])
    torch.testing.assert_close(steps([plain, turned, plain]), expected)


def test_the_fused_step_of_a_cpu_is_the_plain_step(cfg):
    torch.manual_seed(0)
    net, plain = Net(), Net()
    plain.load_state_dict(net.state_dict())
    fused = build_optimizer(cfg, net)
    assert fused.defaults["fused"] is (True if has_fused_kernel(torch.optim.SGD) else None)
    twins = dict(zip(net.parameters(), plain.parameters(), strict=True))
    groups = [
        {**group, "params": [twins[value] for value in group["params"]], "fused": False}
        for group in fused.param_groups
    ]
    reference = torch.optim.SGD(groups, lr=cfg.SOLVER.BASE_LR)
    for _ in range(3):
        for ours, theirs in twins.items():
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.clone()
        fused.step()
        reference.step()
    for ours, theirs in twins.items():
        torch.testing.assert_close(ours, theirs)
