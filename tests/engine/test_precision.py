"""SOLVER.AMP.PRECISION: "auto" on each processor, and the warning where bfloat16 is slow."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from hiera_seg.config import ConfigError
from hiera_seg.engine import precision
from hiera_seg.engine.precision import (
    autocast_precision,
    bfloat16_time_ratio,
    computes_in_bfloat16,
)

REPOSITORY = Path(__file__).resolve().parents[2]
X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 {}fma\nbugs\t\t: spectre\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}sve\nCPU part\t: 0xd40\n"


@pytest.fixture
def processor(monkeypatch):
    """Set the text of /proc/cpuinfo, or that there is none."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)

    def set_to(text: str | None) -> None:
        def read(path, encoding=None):
            if text is None:
                raise FileNotFoundError
            return text

        monkeypatch.setattr(Path, "read_text", read)

    return set_to


@pytest.mark.parametrize(
    "text, expected",
    [
        (X86.format(""), False),
        (X86.format("avx512_bf16 "), True),
        (X86.format("amx_bf16 "), True),
        (X86.replace("Some CPU", "bf16").format(""), False),
        (ARM.format(""), False),
        (ARM.format("bf16 "), True),
        (None, False),
    ],
)
def test_bfloat16_of_a_processor(processor, text, expected):
    processor(text)
    assert computes_in_bfloat16() is expected


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    "limit, expected",
    [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("DEFAULT", True)],
)
def test_a_limit_of_onednn_counts(processor, monkeypatch, variable, limit, expected):
    processor(X86.format("avx512_bf16 "))
    monkeypatch.setenv(variable, limit)
    assert computes_in_bfloat16() is expected


@pytest.mark.parametrize(
    "device, name, has_bfloat16, expected",
    [
        ("cpu", "auto", True, torch.bfloat16),
        ("cpu", "auto", False, None),
        ("cpu", "bfloat16", True, torch.bfloat16),
        ("cpu", "bfloat16", False, torch.bfloat16),
        ("cuda", "auto", False, torch.float16),
        ("cuda", "bfloat16", False, torch.bfloat16),
    ],
)
def test_precision_by_config_and_processor(cfg, monkeypatch, device, name, has_bfloat16, expected):
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: has_bfloat16)
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.PRECISION = device, name
    assert autocast_precision(cfg) is None
    cfg.SOLVER.AMP.ENABLED = True
    assert autocast_precision(cfg) is expected


@pytest.mark.parametrize(
    "has_bfloat16, ratio, warnings", [(True, 8.04, 0), (False, 8.04, 1), (False, 0.9, 0)]
)
def test_bfloat16_where_it_is_slow_is_warned_of_once_with_the_measured_ratio(
    cfg, monkeypatch, caplog, has_bfloat16, ratio, warnings
):
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(precision, "bfloat16_time_ratio", lambda: ratio)
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.PRECISION = True, "bfloat16"
    with caplog.at_level(logging.WARNING, logger="hiera_seg"):
        autocast_precision(cfg)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == warnings
    assert all("SOLVER.AMP.PRECISION" in text and "8.0 times" in text for text in texts)


def test_the_probe_measures_both_precisions_and_draws_no_random_numbers():
    state = torch.get_rng_state()
    assert 0 < bfloat16_time_ratio() < 1000
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "name, enabled, message", [("half", False, 'is "half"'), ("float16", True, "needs a GPU")]
)
def test_precisions_that_can_not_work(cfg, name, enabled, message):
    cfg.SOLVER.AMP.PRECISION, cfg.SOLVER.AMP.ENABLED = name, enabled
    with pytest.raises(ConfigError, match=f"PRECISION.*{message}"):
        autocast_precision(cfg)


def test_no_config_of_the_repository_names_a_precision():
    files = [*REPOSITORY.glob("configs/**/*.yaml"), *REPOSITORY.glob("projects/**/*.yaml")]
    assert len(files) > 20
    solvers = [(yaml.safe_load(file.read_text()) or {}).get("SOLVER") or {} for file in files]
    assert not [solver for solver in solvers if "PRECISION" in solver.get("AMP", {})]
