"""The poly schedule: its numbers, and resuming under another MAX_ITER."""

import pytest
import torch
from fvcore.common.param_scheduler import CompositeParamScheduler, ConstantParamScheduler

from hiera_seg.engine import build_lr_scheduler, schedule
from tests.helpers import new_config


def make_cfg(max_iter: int, **solver: object):
    cfg = new_config()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.MAX_ITER = max_iter
    cfg.SOLVER.WARMUP_ITERS = 0
    for key, value in solver.items():
        setattr(cfg.SOLVER, key, value)
    return cfg


def make(cfg):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    return optimizer, build_lr_scheduler(cfg, optimizer)


def rates(optimizer, scheduler, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_poly_decay_is_one_minus_progress_to_the_power():
    seen = rates(*make(make_cfg(10)), 10)
    assert seen == pytest.approx([0.5 * (1 - i / 10) ** 0.9 for i in range(10)])


def test_constant_ending_is_a_floor():
    seen = rates(*make(make_cfg(10, POLY_LR_CONSTANT_ENDING=0.3)), 10)
    assert seen[-1] == pytest.approx(0.15)
    assert seen[0] == pytest.approx(0.5)


def test_warmup_grows_linearly_to_the_decayed_rate():
    cfg = make_cfg(100, WARMUP_ITERS=10, WARMUP_FACTOR=0.1)
    seen = rates(*make(cfg), 20)
    assert seen[0] == pytest.approx(0.05)
    steps = [b - a for a, b in zip(seen[:9], seen[1:10], strict=True)]
    assert steps == pytest.approx([steps[0]] * 9)
    assert seen[15] == pytest.approx(0.5 * (1 - 15 / 100) ** 0.9)


@pytest.mark.parametrize("iterations, warns", [(10, False), (50, False), (90, True), (900, True)])
def test_a_warmup_that_leaves_no_learning_rate_is_named(caplog, iterations, warns):
    seen = rates(*make(make_cfg(100, WARMUP_ITERS=iterations)), 100)
    assert (max(seen) < 0.25) == warns == ("WARMUP_ITERS" in caplog.text)


@pytest.mark.parametrize("other", [5, 400])
def test_state_of_one_schedule_loads_into_a_longer_or_shorter_one(other):
    optimizer, scheduler = make(make_cfg(10))
    rates(optimizer, scheduler, 8)
    optimizer2, scheduler2 = make(make_cfg(other))
    scheduler2.load_state_dict(scheduler.state_dict())
    assert scheduler2.get_lr() == pytest.approx([0.5 * max(1 - 8 / other, 0) ** 0.9])


def test_the_decay_begins_after_the_warmup_on_request(monkeypatch):
    """RESCALE_INTERVAL is a key of Detectron2's main; its class is imitated for 0.6."""

    def warmup(decay, factor, length, method, rescale_interval=False):
        scaling = ["rescaled", "rescaled" if rescale_interval else "fixed"]
        parts = [ConstantParamScheduler(factor), decay]
        return CompositeParamScheduler(parts, [length, 1 - length], scaling)

    monkeypatch.setattr(schedule, "WarmupParamScheduler", warmup)
    seen = rates(*make(make_cfg(10, WARMUP_ITERS=5, RESCALE_INTERVAL=True)), 6)
    assert seen[-1] == pytest.approx(0.5)


def test_other_names_are_left_to_detectron2():
    cfg = make_cfg(10, LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(4,), GAMMA=0.1)
    assert rates(*make(cfg), 6)[-1] == pytest.approx(0.05)
