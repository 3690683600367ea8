import itertools
import math

import numpy as np
import pytest
import torch

from hiera_seg.layers import MultiScaleDeformableAttention, multi_scale_deformable_attention

SIZES = [(3, 5), (2, 2), (1, 4)]


def inputs(dtype=torch.float64, batch=2, queries=4, heads=2, channels=3, points=2):
    """Values, locations (some of them outside of the maps) and weights."""
    generator = torch.Generator().manual_seed(0)
    positions = sum(height * width for height, width in SIZES)
    values = torch.randn(batch, positions, heads, channels, generator=generator)
    shape = (batch, queries, heads, len(SIZES), points)
    locations = 1.6 * torch.rand(*shape, 2, generator=generator) - 0.3
    weights = torch.rand(shape, generator=generator)
    return values.to(dtype), locations.to(dtype), weights.to(dtype)


def attend_by_loops(values, sizes, locations, weights):
    """The definition, one point and one of the four pixels around it at a time."""
    *shape, levels, points, _ = locations.shape
    result = values.new_zeros(*shape, values.shape[-1])
    for b, q, m, level, p in np.ndindex(*shape, levels, points):
        height, width = sizes[level]
        start = sum(h * w for h, w in sizes[:level])
        x, y = (locations[b, q, m, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        row, column = math.floor(y), math.floor(x)
        for i, j in itertools.product((row, row + 1), (column, column + 1)):
            if 0 <= i < height and 0 <= j < width:
                share = (1 - abs(y - i)) * (1 - abs(x - j))
                value = values[b, start + i * width + j, m]
                result[b, q, m] += weights[b, q, m, level, p] * share * value
    return result.flatten(2)


def test_equals_the_loops_of_the_definition():
    values, locations, weights = inputs()
    found = multi_scale_deformable_attention(values, SIZES, locations, weights)
    expected = attend_by_loops(values, SIZES, locations, weights)
    assert found.shape == (2, 4, 6) and expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    tensors = inputs(batch=1, queries=2, channels=2)
    tensors = [x.requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(
        lambda values, locations, weights: multi_scale_deformable_attention(
            values, SIZES, locations, weights
        ),
        tensors,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_agree_with_double_precision(dtype):
    values, locations, weights = inputs(dtype)
    found = multi_scale_deformable_attention(values, SIZES, locations, weights)
    assert found.dtype == dtype
    expected = multi_scale_deformable_attention(
        values.double(), SIZES, locations.double(), weights.double()
    )
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_autocast_changes_nothing_but_the_linear_layers():
    values, locations, weights = inputs(torch.float32)
    expected = multi_scale_deformable_attention(values, SIZES, locations, weights)
    with torch.autocast("cpu", torch.bfloat16):
        found = multi_scale_deformable_attention(values, SIZES, locations, weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class FixedSizes(torch.nn.Module):
    """The attention over maps of known sizes, as in an exported network."""

    def __init__(self):
        super().__init__()
        self.attention = MultiScaleDeformableAttention(
            8, num_heads=2, num_levels=len(SIZES), num_points=2
        )
        torch.nn.init.normal_(self.attention.offsets.weight)
        self.register_buffer("reference", torch.rand(5, 2))

    def forward(self, queries, values):
        return self.attention(queries, self.reference, values, SIZES)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
def test_a_trace_serves_other_values_and_batch_sizes():
    module = FixedSizes()
    positions = sum(height * width for height, width in SIZES)
    traced = torch.jit.trace(module, (torch.randn(2, 5, 8), torch.randn(2, positions, 8)))
    queries, values = torch.randn(3, 5, 8), torch.randn(3, positions, 8)
    torch.testing.assert_close(traced(queries, values), module(queries, values))


def test_a_new_module_spreads_its_points_over_all_directions():
    module = MultiScaleDeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    offsets = module.offsets(torch.zeros(16)).view(4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for head, direction in enumerate(directions):
        for point in range(3):
            expected = (direction * (point + 1)).expand(2, 2)
            torch.testing.assert_close(offsets[head, :, point], expected)


def test_offsets_are_pixels_of_their_level():
    module = MultiScaleDeformableAttention(4, num_heads=1, num_levels=2, num_points=1)
    with torch.no_grad():  # one pixel to the right, only the second level counts
        module.offsets.bias.copy_(torch.tensor([1.0, 0, 1, 0]))
        module.weights.bias.copy_(torch.tensor([-1e4, 1e4]))
        for linear in (module.value, module.out):
            linear.weight.copy_(torch.eye(4))
    values = torch.arange(12.0).view(1, 12, 1).expand(-1, -1, 4)
    reference = torch.tensor([[0.125, 0.5]])  # pixel 0 of the second level
    found = module(torch.zeros(1, 1, 4), reference, values, [(2, 4), (1, 4)])
    torch.testing.assert_close(found, torch.full((1, 1, 4), 9.0))


@pytest.mark.parametrize(
    "change",
    [
        lambda v, x, w: (v, [*SIZES[:2], (1, 3)], x, w),  # a position that no map has
        lambda v, x, w: (v, SIZES, x, w.transpose(3, 4)),  # as many points and levels, swapped
        lambda v, x, w: (v, SIZES, x, w[..., :1]),
        lambda v, x, w: (torch.cat([v[:1], v[1:]], 2), SIZES, x, w),  # one image, four heads
    ],
)
def test_shapes_that_do_not_fit_are_named(change):
    values, sizes, locations, weights = change(*inputs())
    with pytest.raises(ValueError, match="do not fit") as error:
        multi_scale_deformable_attention(values, sizes, locations, weights)
    for tensor in (values, locations, weights):
        assert str(tuple(tensor.shape)) in str(error.value)


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="dim is 10; .*multiple of num_heads 4"):
        MultiScaleDeformableAttention(10, num_heads=4)
