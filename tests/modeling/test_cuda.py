"""On a GPU: head and decoding give the CPU's results and never wait for the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hiera_seg.layers.scores import DECODE_VARIANTS, NodeOutput
from hiera_seg.modeling import decode

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SIZES = {"padded_size": (64, 96), "image_size": (61, 90), "output_size": (122, 181)}


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
@pytest.mark.parametrize("safe_depth", [None, 0.3])
def test_decoding_does_not_wait_and_agrees_with_the_cpu(hierarchy, variant, safe_depth):
    logits = torch.randn(hierarchy.num_nodes, 16, 24, generator=torch.Generator().manual_seed(0))

    def labels(device):
        output = NodeOutput(logits.to(device), "logits")
        return decode(output, hierarchy, variant=variant, safe_depth=safe_depth, **SIZES)

    on_gpu = NodeOutput(logits.cuda(), "logits")
    decode(on_gpu, hierarchy, variant=variant, safe_depth=safe_depth, **SIZES)
    with waiting_is_an_error():
        decode(on_gpu, hierarchy, variant=variant, safe_depth=safe_depth, **SIZES)
    cpu, gpu = labels("cpu"), labels("cuda")
    torch.testing.assert_close(gpu["sem_seg"].cpu(), cpu["sem_seg"])
    for ours, theirs in zip(gpu["hiera_labels"], cpu["hiera_labels"], strict=True):
        assert (ours.cpu() == theirs).float().mean() > 0.999  # ties aside
