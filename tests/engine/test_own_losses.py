"""Losses that a user registers: their options are keys of a config."""

import pytest
from torch import nn

from hiera_seg.cli import load_config
from hiera_seg.engine import HieraTrainer
from hiera_seg.errors import ConfigError
from hiera_seg.losses import HIERA_LOSSES


@pytest.fixture
def own_loss():
    @HIERA_LOSSES.register(name="own_loss")
    class OwnLoss(nn.Module):
        needs, normalizer = "logits", None

        def __init__(
            self, hierarchy, *, ignore_label, node_weights=None, power=2.0, at=(1, 2), table
        ):
            super().__init__()
            self.options = {"power": power, "at": at, "table": table}

        def forward(self, logits, labels, *, valid_count=None):
            return logits.square().mean()

    yield "MODEL.HIERA_SEG.OWN_LOSS"
    del HIERA_LOSSES._obj_map["own_loss"]


def options_of(cfg, more) -> dict:
    cfg = cfg.clone()
    cfg.MODEL.HIERA_SEG.LOSSES = [["bce", 1.0], ["own_loss", 1.0]]
    cfg.MODEL.HIERA_SEG.OWN_LOSS = more
    return HieraTrainer.build_model(cfg).sem_seg_head.loss.losses[1].options


def test_options_come_from_a_file_and_from_the_command_line(own_loss, cfg, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("MODEL: {HIERA_SEG: {OWN_LOSS: {POWER: 1.5, TABLE: [3, 4]}}}")
    found = load_config(str(file), []).MODEL.HIERA_SEG.OWN_LOSS
    assert dict(found) == {"POWER": 1.5, "AT": (1, 2), "TABLE": [3, 4]}
    found = load_config(str(file), [f"{own_loss}.POWER", "3.0"]).MODEL.HIERA_SEG.OWN_LOSS
    assert options_of(cfg, found) == {"power": 3.0, "at": (1, 2), "table": [3, 4]}
    with pytest.raises(ConfigError, match="POWER"):
        load_config(str(file), [f"{own_loss}.POWER", "much"])


def test_an_option_that_the_loss_does_not_know_is_refused(own_loss, cfg, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("MODEL: {HIERA_SEG: {OWN_LOSS: {TABLE: [3], POWR: 1.5}}}")
    found = load_config(str(file), []).MODEL.HIERA_SEG.OWN_LOSS
    with pytest.raises(ConfigError, match="OWN_LOSS.POWR: .*no such option; .* POWER, AT, TABLE"):
        options_of(cfg, found)
