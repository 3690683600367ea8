import pytest
import torch

from hiera_seg.layers import draw_points, draw_uncertain_points, sample_maps


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def partly_valid():
    """6x10, a quarter of it void in the middle."""
    valid = torch.ones(6, 10, dtype=torch.bool)
    valid[1:4, 2:7] = False
    return valid


def test_points_lie_in_their_pixels_and_never_in_void():
    valid = partly_valid()
    points = draw_points(valid, (3, 2000), generator=generator())
    assert points.xy.shape == (3, 2000, 2) and points.pixel.shape == (3, 2000)
    x, y = points.xy[..., 0] * 10, points.xy[..., 1] * 6
    assert torch.equal(y.floor().long() * 10 + x.floor().long(), points.pixel)
    assert valid.flatten()[points.pixel].all()


def test_points_are_uniform_over_the_valid_area():
    points = draw_points(partly_valid(), (90_000,), generator=generator())
    counts = torch.bincount(points.pixel, minlength=60)
    expected = 90_000 / 45
    assert (counts[counts > 0] - expected).abs().max() < 5 * expected**0.5
    assert (counts > 0).sum() == 45
    inside = points.xy * torch.tensor([10, 6]) % 1
    assert (inside.mean(0) - 0.5).abs().max() < 0.01


def test_maps_are_read_bilinearly_between_pixel_centres():
    maps = torch.arange(6.0).view(1, 1, 2, 3)  # rows 0 1 2 and 3 4 5
    xy = torch.tensor([[[0.5 / 3, 0.25], [1.0 / 3, 0.5], [2.5 / 3, 0.75]]])
    torch.testing.assert_close(sample_maps(maps, xy), torch.tensor([[[0.0, 2.0, 5.0]]]))
    corner = torch.tensor([[[0.0, 1.0]]])
    assert sample_maps(maps, corner).item() == 3  # no fading to 0 beyond the centres
    assert sample_maps(maps.half(), xy).dtype == torch.float32


def test_important_points_are_the_undecided_ones():
    valid = torch.ones(32, 32, dtype=torch.bool)
    logits = torch.linspace(-4, 4, 32).repeat(2, 32, 1)  # 0 in the middle column
    logits[1] = logits[0].T  # ... in the middle row
    points = draw_uncertain_points(logits, valid, 400, generator=generator())
    assert points.xy.shape == (2, 400, 2)
    across = torch.stack([points.xy[0, :, 0], points.xy[1, :, 1]])
    important, uniform = across[:, :300], across[:, 300:]
    # The 300 best of 1200 lie in a quarter of the image around the middle
    assert (important - 0.5).abs().max() < 0.16
    assert (uniform - 0.5).abs().max() > 0.4
    pixel = (points.xy * 32).floor().long()
    assert torch.equal(pixel[..., 1] * 32 + pixel[..., 0], points.pixel)


def test_important_points_avoid_void_too():
    valid = partly_valid()
    points = draw_uncertain_points(torch.zeros(4, 3, 5), valid, 500, generator=generator())
    assert valid.flatten()[points.pixel].all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_no_points_may_be_important(share):
    valid = torch.ones(8, 8, dtype=torch.bool)
    logits = torch.ones(1, 8, 8)
    logits[:, :, :4] = 0
    points = draw_uncertain_points(
        logits, valid, 100, importance_ratio=share, generator=generator()
    )
    left = (points.xy[..., 0] < 0.5).float().mean()
    assert (left == 1) if share else (0.3 < left < 0.7)


def test_the_generator_decides_alone():
    valid, logits = partly_valid(), torch.randn(2, 6, 10)
    first = draw_uncertain_points(logits, valid, 50, generator=generator(1))
    torch.manual_seed(5)
    second = draw_uncertain_points(logits, valid, 50, generator=generator(1))
    assert torch.equal(first.xy, second.xy)
    third = draw_uncertain_points(logits, valid, 50, generator=generator(2))
    assert not torch.equal(first.xy, third.xy)
