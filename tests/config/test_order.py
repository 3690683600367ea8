"""Projects may add their keys before or after this package."""

import itertools

import pytest
from detectron2.config import CfgNode, get_cfg

from hiera_seg import add_hiera_seg_config
from hiera_seg.config.defaults import add_defaults


def add_mask2former(cfg: CfgNode) -> None:
    """Set the shared keys as `add_maskformer2_config` of Mask2Former and of MaskDINO does."""
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1


def add_oneformer(cfg: CfgNode) -> None:
    """Set the shared keys as `add_common_config` of OneFormer does."""
    add_mask2former(cfg)
    cfg.TEST.AUG.CROP_SIZE = (640, 640)
    cfg.TEST.AUG.STRIDE = (426, 426)


@pytest.mark.parametrize("others", [[add_mask2former], [add_mask2former, add_oneformer]])
def test_shared_keys_have_the_values_of_the_other_project_in_every_order(others):
    for order in itertools.permutations([add_hiera_seg_config, *others]):
        cfg = get_cfg()
        for add in order:
            add(cfg)
        assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BACKBONE_MULTIPLIER) == ("ADAMW", 0.1)
        windows = [list(cfg.TEST.AUG.CROP_SIZE), list(cfg.TEST.AUG.STRIDE)]
        assert windows == ([[640, 640], [426, 426]] if add_oneformer in others else [[], []])


def test_a_second_call_changes_nothing():
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    assert (cfg.SOLVER.OPTIMIZER, cfg.TEST.AUG.CROP_SIZE) == ("SGD", [])
    cfg.merge_from_list(["MODEL.HIERA_SEG.BCE.NORMALIZE", "level_mean", "SOLVER.EMA.ENABLED", True])
    before = cfg.dump()
    add_defaults(cfg)
    assert cfg.dump() == before
