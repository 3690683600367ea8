"""Sliding windows against the whole image, and against a mean worked out window by window."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hiera_seg.inference import HieraSegmentorWithTTA, slide
from hiera_seg.inference.sliding import window_starts
from hiera_seg.layers.scores import NodeOutput
from hiera_seg.modeling import DecodeOptions, NodeView

from .test_augmentation import resizes

decode_module = importlib.import_module("hiera_seg.modeling.decode")


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


def whole_accumulation(model, image, window, stride):
    """All windows added up on the whole image, as N x H x W floats."""
    height, width = image.shape[-2:]
    total = torch.zeros(model.hierarchy.num_nodes, height, width)
    count = torch.zeros(height, width)
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            part = image[:, top : top + window[0], left : left + window[1]]
            view = model.node_views([part])[0]
            values = F.interpolate(view.output.values, view.padded_size, mode="bilinear")
            rows, columns = part.shape[-2:]
            total[:, top : top + rows, left : left + columns] += values[0, :, :rows, :columns]
            count[top : top + rows, left : left + columns] += 1
    output = NodeOutput((total / count)[None], model.sem_seg_head.output_kind)
    return NodeView(output, (height, width), (height, width))


OPTIONS = {
    "labels": DecodeOptions(output="labels"),
    "all maps": DecodeOptions(confidence=True, greedy_path=True),
    "safe depth": DecodeOptions(output="labels", min_confidence=0.55, confidence=True),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "window, stride, size",
    [
        ((16, 16), (10, 10), (40, 56)),
        ((16, 64), (16, 16), (40, 56)),  # one column of windows
        ((64, 16), (5, 7), (23, 31)),  # one row of windows
        ((9, 11), (1, 11), (80, 90)),  # rows of windows overlap many times
        ((12, 20), (7, 20), (9, 14)),
        ((37, 50), (2, 3), (40, 56)),
    ],
)
def test_labels_equal_those_of_the_whole_accumulation(
    make_model, image, window, stride, size, options, monkeypatch
):
    model = make_model(stride=4)
    tensor = as_tensor(image)
    for band in (1, 700, 1 << 20):
        monkeypatch.setattr(decode_module, "_BAND_VALUES_CPU", band)
        with torch.no_grad():
            expected = model.decode(
                [whole_accumulation(model, tensor, window, stride)], size, options
            )
            found = model.decode([slide(model, tensor, window, stride)], size, options)
        assert found.keys() == expected.keys()
        for key, maps in expected.items():
            others = found[key] if isinstance(maps, list) else [found[key]]
            for one, other in zip(maps if isinstance(maps, list) else [maps], others, strict=True):
                torch.testing.assert_close(other, one)


def test_copies_of_several_sizes_are_averaged_in_stripes(make_model, image, tree):
    """Copies reach different heights at a time, mirrored or not."""
    model = make_model(stride=4)
    swap = np.arange(tree.num_nodes)
    swap[[tree["left-arm"], tree["right-arm"]]] = swap[[tree["right-arm"], tree["left-arm"]]]
    settings = {"resizes": resizes(33, 61), "flip": True, "swap": swap, "window": (24, 28)}
    augmented = HieraSegmentorWithTTA(model, **settings, stride=(15, 9))
    views = augmented.views(image)
    found = model.decode(views, (40, 56), DecodeOptions())
    whole = [view._replace(output=NodeOutput(view.output.values, "logits")) for view in views]
    expected = model.decode(whole, (40, 56), DecodeOptions())
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"])
    for labels, others in zip(found["hiera_labels"], expected["hiera_labels"], strict=True):
        assert torch.equal(labels, others)


def test_positions_with_nan_are_counted_once(make_model, image):
    model = make_model(stride=4)
    with torch.no_grad():
        model.sem_seg_head.conv.weight[2] = torch.nan
    view = slide(model, as_tensor(image), (16, 16), (10, 10))
    assert model.decode([view], (40, 56))["hiera_nan_count"] == 40 * 56
    assert model.decode([view], (20, 28))["hiera_nan_count"] == 40 * 56  # runs the windows again


def test_memory_does_not_grow_with_the_height():
    """72 nodes at 3000 x 400 as floats have 346 MB, a row of windows has 15 MB."""
    root = Path(__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("peak_memory.py"))]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, "3000", "400", "128"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    nodes, dtype, peak, maps = done.stdout.split()
    assert (nodes, dtype, maps) == ("72", "uint8", str(4 * 3000 * 400))
    assert int(peak) - int(maps) < 100e6
