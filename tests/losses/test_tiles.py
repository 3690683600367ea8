"""The tiled sum by itself: every pixel once, and what happens to its gradient."""

import pytest
import torch

from hiera_seg.losses.fused import tiles


def _linear(pixels, index, factor, out, exact):
    """Sum of (label + 1) x logit; its gradient is label + 1."""
    weight = (index + 1).to(pixels.dtype).expand_as(pixels)
    if out is not None:
        torch.mul(weight, factor, out=out)
    return (pixels * weight).sum()


@pytest.mark.parametrize("tile_pixels", [1, 4, 35, 1000])
def test_each_pixel_counts_once(monkeypatch, tile_pixels):
    monkeypatch.setattr(tiles, "tile_pixels", lambda num_nodes: tile_pixels)
    logits = torch.randn(2, 3, 5, 7, requires_grad=True)
    index = torch.randint(0, 4, (2, 5, 7))
    value = tiles.sum_over_pixels(logits, index, _linear)
    value.backward()
    expected = (index + 1.0)[:, None].expand(2, 3, 5, 7)
    torch.testing.assert_close(value, (logits * expected).sum())
    assert torch.equal(logits.grad, expected)


def test_a_tile_is_float32_or_float64():
    seen = []

    def spy(pixels, *arguments):
        seen.append(pixels.dtype)
        return _linear(pixels, *arguments)

    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits = torch.zeros(1, 3, 2, 2, dtype=dtype)
        tiles.sum_over_pixels(logits, torch.zeros(1, 2, 2, dtype=torch.long), spy)
    assert seen == [torch.float32] * 3 + [torch.float64]


def test_small_factors_are_not_rounded_to_half_precision():
    """1e-6 is subnormal in float16 (1.3 % off); 100 times 1e-6 is not."""
    logits = torch.zeros(1, 1, 1, 1, dtype=torch.float16, requires_grad=True)
    value = tiles.sum_over_pixels(logits, torch.full((1, 1, 1), 99), _linear)
    (value * 1e-6).backward()
    assert logits.grad.item() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_scale_inside_is_a_factor_outside(dtype, weight):
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 4, (2, 5, 7), generator=generator)
    scale = torch.tensor(1 / 64, dtype=tiles.loss_dtype(torch.empty(0, dtype=dtype)))
    results = []
    for inside in (True, False):
        logits = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
        logits.requires_grad_()
        if inside:
            value = tiles.sum_over_pixels(logits, index, _linear, scale=scale)
        else:
            value = tiles.sum_over_pixels(logits, index, _linear) * scale
        (value * weight).backward(retain_graph=True)
        first = logits.grad.clone()
        (value * weight).backward()  # once more from what was kept
        torch.testing.assert_close(logits.grad, 2 * first)
        results.append((value.detach(), first))
    torch.testing.assert_close(*results)
