"""The shipped configs: each reads, and names a tree, losses and a decoding that fit together."""

from pathlib import Path

import pytest

import projects.GeneratedStreets  # noqa: F401  (registers what configs/Generated trains on)
from hiera_seg.config import resolve_hierarchy, resolve_ignore_label
from hiera_seg.losses import HIERA_LOSSES
from hiera_seg.modeling import decode_variant
from tests.helpers import new_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


def read(name: str):
    cfg = new_config()
    cfg.merge_from_file(str(CONFIGS / name))
    return cfg


@pytest.mark.parametrize("name", [name for name in NAMES if "Base" not in name])
def test_a_config_reads_and_fits_together(name):
    cfg = read(name)
    hierarchy = resolve_hierarchy(cfg)
    assert not 0 <= resolve_ignore_label(cfg, hierarchy) < hierarchy.num_nodes
    losses = [term for term, _ in cfg.MODEL.HIERA_SEG.LOSSES]
    assert all(term in HIERA_LOSSES for term in losses)
    has_queries = cfg.MODEL.SEM_SEG_HEAD.NAME == "HieraMaskFormerHead"
    assert has_queries == (not losses)  # queries have losses of their own
    kind = "scores" if has_queries else "logits"
    decode = cfg.MODEL.HIERA_SEG.TEST.DECODE
    own = decode_variant("auto", losses, kind=kind)
    # or by the best path of the same probabilities, or by the softmaxes of one term of a sum
    others = ["level_softmax"] if "level_ce" in losses else []
    assert decode_variant(decode, losses, kind=kind) in (own, f"{own}_path_sum", *others)


@pytest.mark.parametrize(
    "folder, network, count",
    [
        ("CamVid", "r18", 5),
        ("CamVid11", "lite0", 5),
        ("PascalPersonPart", "r18", 3),
        ("PascalPersonPart", "lite0", 3),
    ],
)
def test_the_configs_of_a_study_differ_in_the_loss_and_its_decoding_alone(folder, network, count):
    found = []
    plain = read(next(n for n in NAMES if n.startswith(f"{folder}/flat") and network in n))
    for name in NAMES:
        base = "Base" in name or "maskformer" in name
        if name.startswith(f"{folder}/") and name.endswith(f"_{network}.yaml") and not base:
            cfg = read(name)
            cfg.OUTPUT_DIR = ""
            for key in ("LOSSES", "MARGINAL_CE", "TEST"):
                cfg.MODEL.HIERA_SEG[key] = None
            if "public_code" in name:  # options of losses that the others do not have
                for key in ("FOCAL_TREE_MIN", "TREE_TRIPLET", "AUXILIARY"):
                    cfg.MODEL.HIERA_SEG[key] = plain.MODEL.HIERA_SEG[key]
            found.append(cfg.dump())
    assert len(found) == count
    assert len(set(found)) == 1


@pytest.mark.parametrize("folder", ["CamVid", "PascalPersonPart"])
def test_flat_is_cross_entropy_over_the_leaves_alone(folder):
    cfg = read(f"{folder}/flat_deeplab_v3_plus_r18.yaml")
    assert cfg.MODEL.HIERA_SEG.MARGINAL_CE.LEVEL_WEIGHTS == [0.0, 0.0, 1.0]


def test_a_void_value_that_is_a_node_is_refused():
    cfg = read("CamVid/flat_deeplab_v3_plus_r18.yaml")
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 30
    hierarchy = resolve_hierarchy(cfg)
    with pytest.raises(ValueError, match=r"IGNORE_VALUE is 30, which is node 'fixed_object/.*Wall"):
        resolve_ignore_label(cfg, hierarchy)
