"""On a GPU: head and decoding give the CPU's results and never wait for the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hiera_seg.layers.scores import DECODE_VARIANTS, NodeOutput
from hiera_seg.modeling import DecodeOptions, NodeView, decode

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
PADDED_SIZE, IMAGE_SIZE, OUTPUT_SIZE = (64, 96), (61, 90), (122, 181)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_head_and_its_losses_do_not_wait(make_model, make_inputs):
    model = make_model("MODEL.DEVICE", "cuda").train()
    labels = torch.stack([s["sem_seg"] for s in make_inputs((64, 96), (64, 96))]).cuda()
    images = torch.randn(2, 3, 64, 96, device="cuda")

    def step():
        features = model.backbone(images)
        sum(model.sem_seg_head(features, labels)[1].values()).backward()

    step()  # makes the tables of the tree, which waits
    with waiting_is_an_error():
        step()


@pytest.mark.parametrize("variant", DECODE_VARIANTS)
@pytest.mark.parametrize("min_confidence", [None, 0.3])
def test_decoding_does_not_wait_and_agrees_with_the_cpu(hierarchy, variant, min_confidence):
    logits = torch.randn(hierarchy.num_nodes, 16, 24, generator=torch.Generator().manual_seed(0))
    options = DecodeOptions(variant, min_confidence=min_confidence)

    def labels(values):
        view = NodeView(NodeOutput(values, "logits"), PADDED_SIZE, IMAGE_SIZE)
        return decode([view], hierarchy, options, output_size=OUTPUT_SIZE)

    on_gpu = logits.cuda()
    labels(on_gpu)
    with waiting_is_an_error():
        labels(on_gpu)
    cpu, gpu = labels(logits), labels(on_gpu)
    torch.testing.assert_close(gpu["sem_seg"].cpu(), cpu["sem_seg"])
    for ours, theirs in zip(gpu["hiera_labels"], cpu["hiera_labels"], strict=True):
        assert (ours.cpu() == theirs).float().mean() > 0.999  # ties aside
