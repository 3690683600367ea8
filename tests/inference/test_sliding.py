"""Sliding windows against the whole image, and against a mean worked out window by window."""

import pytest
import torch
import torch.nn.functional as F

from hiera_seg.inference import slide
from hiera_seg.inference.sliding import window_starts


@pytest.mark.parametrize("window, stride", [(4, 3), (4, 4), (5, 1), (9, 2), (30, 30)])
def test_windows_cover_everything_and_stay_inside(window, stride):
    for size in range(1, 24):
        starts = window_starts(size, window, stride)
        seen = {p for start in starts for p in range(start, min(start + window, size))}
        assert seen == set(range(size))
        assert starts == sorted(set(starts)) and starts[-1] + window <= max(size, window)


def as_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def test_a_window_that_covers_the_image_changes_nothing(make_model, image):
    model = make_model(stride=4)
    whole = model.node_views([as_tensor(image)])[0]
    for window in ((40, 56), (64, 512)):
        with torch.no_grad():
            view = slide(model, as_tensor(image), window, (7, 7))
        assert torch.equal(view.output.values, whole.output.values)
        assert view.padded_size == whole.padded_size and view.image_size == (40, 56)


def test_windows_of_a_network_without_surroundings_give_the_whole(make_model, image):
    model = make_model(stride=1)
    with torch.no_grad():
        whole = model.node_views([as_tensor(image)])[0].output.values
        view = slide(model, as_tensor(image), (16, 20), (10, 13))
    torch.testing.assert_close(view.output.values, whole, rtol=1e-5, atol=1e-5)


def test_overlapping_windows_are_averaged(make_model, image):
    model = make_model(stride=4)
    tensor = as_tensor(image)
    with torch.no_grad():
        view = slide(model, tensor, (40, 36), (40, 24))  # columns 0..36 and 20..56
        parts = [model.node_views([tensor[..., left : left + 36]])[0] for left in (0, 20)]
        full = [F.interpolate(part.output.values, (40, 36), mode="bilinear") for part in parts]
    found = view.output.values
    assert found.shape == (1, model.hierarchy.num_nodes, 40, 56)
    torch.testing.assert_close(found[..., :20], full[0][..., :20])
    torch.testing.assert_close(found[..., 20:36], (full[0][..., 20:] + full[1][..., :16]) / 2)
    torch.testing.assert_close(found[..., 36:], full[1][..., 16:])
