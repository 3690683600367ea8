"""The function, the module and the config of a loss have the same defaults."""

import inspect
from functools import partial

import pytest
import torch

from hiera_seg.losses import (
    HIERA_LOSSES,
    bce_loss,
    level_ce_loss,
    marginal_ce_loss,
    rmi_loss,
    tree_min_loss,
    tree_triplet_loss,
    triplet_weight,
)

FUNCTIONS = {
    "bce": bce_loss,
    "focal_tree_min": partial(tree_min_loss, gamma=2.0),
    "level_ce": level_ce_loss,
    "marginal_ce": marginal_ce_loss,
    "rmi": rmi_loss,
    "tree_min": tree_min_loss,
    "tree_triplet": tree_triplet_loss,
}
LOSSES = [name for name, loss in HIERA_LOSSES if loss.__module__.startswith("hiera_seg.")]


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 26, 12, 15, generator=generator)
    labels = torch.randint(0, 19, (2, 12, 15), generator=generator)
    labels[0, 0] = 255
    return {"logits": logits, "embeddings": logits, "labels": labels}


def value_of_function(name, batch, tree):
    options = {"generator": torch.Generator().manual_seed(3)} if name == "tree_triplet" else {}
    return FUNCTIONS[name](batch["logits"], batch["labels"], tree, **options)


def test_every_loss_is_compared():
    assert sorted(FUNCTIONS) == sorted(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_the_module_gives_what_the_function_gives(cityscapes, batch, name):
    loss = HIERA_LOSSES.get(name)(cityscapes)
    options = {"generator": torch.Generator().manual_seed(3)} if loss.samples else {}
    found = loss(batch[loss.needs], batch["labels"], **options)
    assert found == value_of_function(name, batch, cityscapes) > -torch.inf


@pytest.mark.parametrize("name", LOSSES)
def test_the_config_gives_what_the_function_gives(cityscapes, batch, name):
    config = pytest.importorskip("detectron2.config")
    from hiera_seg import add_hiera_seg_config
    from hiera_seg.modeling.heads.loss import build_hierarchical_loss

    cfg = config.get_cfg()
    add_hiera_seg_config(cfg)
    cfg.MODEL.HIERA_SEG.LOSSES = [[name, 1.0]]
    loss = build_hierarchical_loss(cfg, cityscapes, 255)
    found = loss(**batch, generator=torch.Generator().manual_seed(3))[f"loss_{name}"]
    expected = value_of_function(name, batch, cityscapes)
    factor = triplet_weight(None, cfg.SOLVER.MAX_ITER) if name == "tree_triplet" else 1.0
    assert found == factor * expected


@pytest.mark.parametrize("name", LOSSES)
def test_signatures_show_the_options_of_the_function(name):
    parameters = inspect.signature(HIERA_LOSSES.get(name)).parameters
    hierarchy, *options = parameters.values()
    assert hierarchy.name == "hierarchy"
    assert all(option.kind == option.KEYWORD_ONLY for option in options)
    found = {option.name: option.default for option in options}
    expected = {
        option.name: option.default
        for option in inspect.signature(FUNCTIONS[name]).parameters.values()
        if option.kind == option.KEYWORD_ONLY and option.name not in ("valid_count", "generator")
    }
    if name == "tree_triplet":
        expected["schedule_iters"] = 0
    if name == "tree_min":
        assert expected.pop("gamma") == 0
    assert found == expected


def test_an_unknown_option_is_refused(cityscapes):
    with pytest.raises(TypeError, match="'gama'"):
        HIERA_LOSSES.get("focal_tree_min")(cityscapes, gama=1.0)
