"""The recipes of projects/HSSN: what is in them, said once."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode

from hiera_seg.cli import load_config
from hiera_seg.modeling import decode_variant

CONFIGS = Path(__file__).resolve().parents[2] / "projects/HSSN/configs"
# crop, shorter side of the images, batch, rate of SGD, iterations
SCHEDULES = {
    "Cityscapes": ([512, 1024], 1024, 8, 0.01, 80_000),
    "Mapillary": ([512, 1024], 1080, 8, 0.01, 240_000),
    "PascalPersonPart": ([480, 480], 480, 16, 0.007, 60_000),
    "LIP": ([480, 480], 480, 16, 0.007, 160_000),
}
RECIPES = sorted(path for path in CONFIGS.glob("*/*.yaml"))


def identify(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_every_dataset_has_the_same_recipes():
    names = {folder: {path.name for path in RECIPES if path.parent.name == folder}
             for folder in SCHEDULES}  # fmt: skip
    assert len(names["LIP"]) == 6 and len(RECIPES) == 24
    assert all(found == names["LIP"] for found in names.values())


@pytest.mark.parametrize("path", RECIPES, ids=identify)
def test_the_schedule_is_the_datasets_and_the_losses_are_the_flavours(path):
    cfg = load_config(str(path), [])
    crop, side, batch, rate, iterations = SCHEDULES[path.parent.name]
    assert list(cfg.INPUT.CROP.SIZE) == crop
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST) == ((side // 2, 2 * side), side)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (batch, iterations)
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR" and cfg.SOLVER.POLY_LR_POWER == 0.9
    assert cfg.SOLVER.WARMUP_ITERS == 0
    if cfg.SOLVER.OPTIMIZER == "SGD":
        assert cfg.SOLVER.BASE_LR == rate
        assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM == 5e-5
        assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
    else:
        assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR) == ("ADAMW", 1e-4)
    assert cfg.OUTPUT_DIR.split("/")[-1] == path.stem

    hiera = cfg.MODEL.HIERA_SEG
    if "maskformer" in path.stem:
        option = "node_sigmoid" if path.stem.startswith("paper_") else "leaf_softmax"
        assert (hiera.LOSSES, hiera.MASK_FORMER.OPTION) == ([], option)
    elif path.stem.startswith("paper_"):
        assert hiera.LOSSES == [["focal_tree_min", 1.0], ["tree_triplet", 1.0]]
        assert (hiera.FOCAL_TREE_MIN.GAMMA, hiera.FOCAL_TREE_MIN.NORMALIZE) == (2.0, "sum")
        assert (hiera.TREE_TRIPLET.MARGIN, hiera.AUXILIARY.WEIGHT) == (-1.0, 0.0)
        assert decode_variant(hiera.TEST.DECODE, ["focal_tree_min"]) == "path_sum"
    else:
        street = path.parent.name in ("Cityscapes", "Mapillary")
        own = [["tree_min", 5.0]] if street else [["rmi", 0.25], ["focal_tree_min", 0.5]]
        assert hiera.LOSSES == [*own, ["level_ce", 1.0], ["tree_triplet", 2.0]]
        used = hiera.TREE_MIN if street else hiera.FOCAL_TREE_MIN
        assert used.NORMALIZE == "level_mean"
        assert hiera.TREE_TRIPLET.MARGIN == 0.3
        assert hiera.TEST.DECODE == "joint_softmax"
        flat_heads = {"auxiliary": hiera.AUXILIARY.WEIGHT}
        if "ocr" in path.stem:
            assert hiera.OCR.REGIONS == "leaf"
            flat_heads["regions"] = hiera.OCR.WEIGHT
        assert sorted(filter(None, flat_heads.values())) == [0.4]


def flat(node: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        is_node = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if is_node else {prefix + key: value}
    return found


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=identify)
def test_nothing_is_repeated_that_a_base_has(path):
    whole = CfgNode.load_yaml_with_base(str(path))
    text = path.read_text()
    own = CfgNode.load_cfg(text)
    bases = own.pop("_BASE_", [])
    inherited: dict = {}
    for base in [bases] if isinstance(bases, str) else bases:
        inherited |= flat(CfgNode.load_yaml_with_base(str(path.parent / base)))
    repeated = [key for key, value in flat(own).items() if inherited.get(key, None) == value]
    assert not repeated
    assert flat(whole) == inherited | flat(own)
