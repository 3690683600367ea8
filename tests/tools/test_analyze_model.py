"""tools/analyze_model.py: figures of a small network, checked by hand."""

import json

import pytest

from hiera_seg.cli import load_config
from hiera_seg.diagnostics.cost import compare_with_flat
from tests.helpers import CONFIGS
from tests.messages import check_one_error

CONFIG = CONFIGS / "CamVid/hssn_deeplab_v3_plus_r18.yaml"


@pytest.fixture(scope="module")
def costs():
    return compare_with_flat(load_config(str(CONFIG), []), (64, 64))


def module(cost, name):
    return next(m for m in cost.modules if m.name == name)


def test_a_convolution_is_counted_as_by_hand(costs):
    ours, _ = costs
    predictor = module(ours, "sem_seg_head.predictor")
    channels = 128  # of the pixel decoder, at stride 4: 16 x 16 positions, 48 nodes
    assert predictor.parameters == (channels + 1) * 48
    assert predictor.flops == channels * 48 * 16 * 16
    assert predictor.activations == 48 * 16 * 16


def test_a_module_holds_what_is_inside_it(costs):
    for cost in costs:
        head, backbone = module(cost, "sem_seg_head"), module(cost, "backbone")
        assert cost.whole.parameters == head.parameters + backbone.parameters
        assert cost.whole.flops == pytest.approx(head.flops + backbone.flops)


def test_hierarchy_costs_channels_and_in_training_the_embedding(costs):
    ours, flat = costs
    assert (ours.hierarchy.num_nodes, flat.hierarchy.num_nodes) == (48, 31)
    more = 129 * (48 - 31)
    assert ours.test_parameters - flat.test_parameters == more
    embedding = module(ours, "sem_seg_head.embedding_head")
    assert ours.whole.parameters - flat.whole.parameters == more + embedding.parameters
    assert ours.whole.flops - flat.whole.flops == 128 * (48 - 31) * 256
    extra = ours.training_flops - ours.whole.flops
    # 512 -> 512 -> 256 channels at stride 32 or 16, and a norm that is counted as well
    assert extra > 0 and flat.training_flops == flat.whole.flops


@pytest.fixture
def analyze(start_tool):
    return start_tool("analyze_model")


def test_query_heads_are_counted_too(analyze, tmp_path):
    config = CONFIGS / "Generated/maskformer_r18.yaml"
    code, out, err = analyze(
        "--config-file", config, "--size", 64, 64, "--depth", 1, "--json", tmp_path / "cost.json"
    )  # fmt: skip
    assert code == 0, err
    assert "the same network with a flat head" in out and "sem_seg_head" in out
    assert "pixel_decoder" not in out  # deeper
    written = json.loads((tmp_path / "cost.json").read_text())
    assert written["hierarchy"]["modules"][0]["parameters"] > 1e6
    assert written["flat"]["channels"] < written["hierarchy"]["channels"]

    name, keys = "sem_seg_head.transformer_decoder.layers.0.cross_attention", 2 * 2  # stride 32
    former = load_config(str(config), []).MODEL.HIERA_SEG.MASK_FORMER
    for kind, expected in (
        ("flops", 2 * former.NUM_QUERIES * keys * former.HIDDEN_DIM),
        ("activations", former.NUM_QUERIES * (former.NUM_HEADS * keys + former.HIDDEN_DIM)),
    ):
        counts = {module["name"]: module[kind] for module in written["hierarchy"]["modules"]}
        parts = sum(n for part, n in counts.items() if part.startswith(f"{name}."))
        assert counts[name] - parts == expected


def test_files_of_pixel_counts_are_not_read(costs):
    """They do not fit the flat tree, and have no cost."""
    cfg = load_config(str(CONFIG), [])
    cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.METHOD = "inverse"
    cfg.MODEL.HIERA_SEG.NODE_WEIGHTS.FILE = "none.json"
    cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.TAU = 1.0
    cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.FILE = "none.json"
    assert [cost.whole for cost in compare_with_flat(cfg, (64, 64))] == [c.whole for c in costs]


def test_bad_arguments(analyze):
    check_one_error(analyze("--config-file", CONFIG, "--size", 0, 64), 2, "error: --size")
    base = CONFIGS / "Base-DeepLabV3Plus-R18.yaml"  # each dataset's config sets the crop
    found = analyze("--config-file", base, "--opts", "MODEL.HIERA_SEG.HIERARCHY", "camvid")
    check_one_error(found, 2, "INPUT.CROP.SIZE is [0.9, 0.9]")
    check_one_error(analyze("--config-file", "none.yaml"), 2, "none.yaml")
    stock = ("--opts", "MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NAME",
             "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 4)  # fmt: skip
    check_one_error(analyze("--config-file", CONFIG, *stock), 2, "HieraSegmentor")
