import logging

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from torch import nn

from hiera_seg.modeling import fall_back_to_batch_norm


def network() -> nn.Sequential:
    shared = nn.SyncBatchNorm(4, eps=1e-3, momentum=0.2)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.Sequential(nn.SyncBatchNorm(4), nn.GroupNorm(2, 4)),
        shared,
        FrozenBatchNorm2d(4),
        shared,
    )


def test_sync_bn_becomes_bn_with_the_same_state():
    net = network()
    with torch.no_grad():
        net[2].weight.uniform_()
        net[2].running_mean.uniform_()
    net[1][0].weight.requires_grad_(False)
    net[1][0].eval()
    before = net.state_dict()
    assert fall_back_to_batch_norm(net, "cpu") == 2
    assert type(net[1][0]) is type(net[2]) is nn.BatchNorm2d
    assert net[2] is net[4]
    assert (net[2].eps, net[2].momentum) == (1e-3, 0.2)
    assert not net[1][0].weight.requires_grad and not net[1][0].training and net[2].training
    assert type(net[1][1]) is nn.GroupNorm and type(net[3]) is FrozenBatchNorm2d
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("processes", "device", "replaced", "where"),
    [(2, "cuda", 0, ""), (2, "cpu", 2, "on a CPU"), (1, "cuda", 2, "in a single process")],
)
def test_where_sync_bn_stays(monkeypatch, caplog, processes, device, replaced, where):
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    with caplog.at_level(logging.INFO, logger="hiera_seg.modeling.norm"):
        assert fall_back_to_batch_norm(network(), device) == replaced
        assert fall_back_to_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), device) == 0
    assert [where in record.getMessage() for record in caplog.records] == [True] * bool(where)


def test_the_segmentor_turns_backbone_and_head(make_model, caplog):
    with caplog.at_level(logging.INFO, logger="hiera_seg.modeling.norm"):
        model = make_model(
            *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
            *("MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res5"]),
            *("MODEL.RESNETS.NORM", "SyncBN"),
            *("MODEL.SEM_SEG_HEAD.NORM", "SyncBN"),
        )
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    # ResNet-18: 20 convolutions; DeepLabV3+: 4 + 1 in ASPP, 1 + 2 to fuse; embedding: BN
    assert "28 SyncBN layers" in caplog.text
