"""The study of projects/HSSN/study: its configs, its runner, and its measures."""

import argparse
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_seg import Hierarchy
from hiera_seg.cli import load_config
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.engine import HieraTrainer
from hiera_seg.evaluation import ImageCounts
from hiera_seg.metrics import Cells, collapse_nodes, level_scores
from hiera_seg.modeling import decode_variant
from projects.HSSN.study import design, front, page, plan, run, subsets
from projects.HSSN.study.measure import (
    BOUNDARY_WIDTH,
    NUM_RESAMPLES,
    bootstrap,
    count_near_boundary,
    measure,
)
from projects.HSSN.study.proposals import adjust_priors
from projects.HSSN.study.subsets import register_subsets
from tests.helpers import write_dataset

from .study_results import result

TREE = Hierarchy.from_dict(
    {"flat": {"ground": ["road", "pavement"]}, "vehicle": {"four": ["car", "bus"], "bike": None}},
    levels=["group", "kind", "class"],
)
NAMES = ["pavement", "road", "car", "bus", "bike", "void"]


@pytest.fixture
def street(tmp_path):
    """A registered dataset of 20 images with raw ids in an order of their own."""
    name = f"study_street_{tmp_path.name}"
    labels = np.random.default_rng(0).integers(0, len(NAMES), (20, 40, 48), np.uint8)
    label_map = {n: None if n == "void" else n for n in NAMES}
    roots = write_dataset(tmp_path, labels)
    register_hierarchical_dataset(
        name, hierarchy=TREE, label_map=label_map, raw_classes=NAMES, **roots
    )
    yield name
    for registered in DatasetCatalog.list():
        if registered == name or registered.startswith(f"hiera_study_{name}"):
            DatasetCatalog.remove(registered)
            MetadataCatalog.remove(registered)


MAKE_CONFIG = run.make_config


def small_config(planned: plan.Run, output: Path) -> CfgNode:
    """Return the config of a run on parts of the dataset that it is tested on, in small crops."""
    cfg = MAKE_CONFIG(planned, output)
    cfg.defrost()
    parts = [f"hiera_study_{planned.test}_{part}" for part in planned.train if part != "all"]
    cfg.DATASETS.TRAIN = tuple(parts) or (planned.test,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48,), 40
    cfg.INPUT.CROP.SIZE = [32, 32]
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


@pytest.mark.parametrize("data", design.DATA)
@pytest.mark.parametrize("arm", design.ARMS)
def test_arms_differ_in_loss_and_decoding_alone(data, arm, tmp_path):
    runs = [plan.rate_runs(data, name)[0] for name in ("flat", arm)]
    flat, cfg = (run.make_config(planned, tmp_path) for planned in runs)
    cfg.defrost()
    own = cfg.MODEL.HIERA_SEG
    variant = decode_variant(own.TEST.DECODE, [name for name, _ in own.LOSSES])
    assert (variant == "marginal") == (arm == "flat" or arm.startswith("marginal_ce"))
    losses = ("MARGINAL_CE", "FOCAL_TREE_MIN", "TREE_MIN", "TREE_TRIPLET")
    for key in ("LOSSES", *losses, "AUXILIARY"):
        own[key] = flat.MODEL.HIERA_SEG[key]
    own.TEST.DECODE = flat.MODEL.HIERA_SEG.TEST.DECODE
    cfg.OUTPUT_DIR = flat.OUTPUT_DIR
    assert cfg == flat


def test_networks_of_queries_differ_in_what_a_query_says(tmp_path):
    softmax, sigmoid = (run.make_config(r, tmp_path) for r in plan.query_runs("camvid11")[:2])
    sigmoid.defrost()
    options = [cfg.MODEL.HIERA_SEG.MASK_FORMER.OPTION for cfg in (softmax, sigmoid)]
    assert options == list(design.QUERY_ARMS)
    sigmoid.MODEL.HIERA_SEG.MASK_FORMER.OPTION = options[0]
    sigmoid.OUTPUT_DIR = softmax.OUTPUT_DIR
    assert sigmoid == softmax
    pixels = run.make_config(plan.rate_runs("camvid11", "flat")[0], tmp_path)
    assert softmax.INPUT.CROP.SIZE == pixels.INPUT.CROP.SIZE
    assert softmax.INPUT.MIN_SIZE_TRAIN == pixels.INPUT.MIN_SIZE_TRAIN
    assert softmax.SOLVER.BASE_LR == design.QUERY_RATE
    features = softmax.MODEL.HIERA_SEG.TIMM.OUT_FEATURES
    assert {*softmax.MODEL.SEM_SEG_HEAD.IN_FEATURES} <= {*features}  # not those of the pixel head


@pytest.mark.parametrize("arm", design.PROPOSALS)
def test_proposals_differ_from_their_arm_in_decoding_alone(arm, tmp_path):
    base = plan.final_runs("camvid", design.PROPOSALS[arm], 0.02, ["main"])[0]
    planned = dataclasses.replace(base, arm=arm, weights=base.key, strength=0.5)
    expected, cfg = (run.make_config(of, tmp_path) for of in (base, planned))
    assert cfg.MODEL.WEIGHTS == str(tmp_path / base.key / run.WEIGHTS)
    test = cfg.MODEL.HIERA_SEG.TEST
    siblings, decode = arm.endswith("sibling_adjusted"), "marginal"
    if siblings:
        decode = "level_softmax" if arm.startswith(("level", "public")) else "marginal_path_sum"
    assert test.DECODE == decode
    assert test.SIBLING_ADJUSTMENT.TAU == (0.5 if siblings else 0)
    cfg.defrost()
    cfg.MODEL.HIERA_SEG.TEST = expected.MODEL.HIERA_SEG.TEST
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = expected.MODEL.WEIGHTS, expected.OUTPUT_DIR
    assert cfg == expected


@pytest.mark.parametrize("data, arm", [
    ("camvid11", "flat_sibling_adjusted"),
    ("person_part_lite0", "flat_sibling_adjusted"),
    ("person_part_lite0", "public_sibling_adjusted"),
])  # fmt: skip
def test_shipped_configs_repeat_rows_of_the_study(data, arm, tmp_path):
    results = run.read_results(run.RESULTS)
    of = next(
        r for r in results.values() if (r["stage"], r["data"], r["arm"]) == ("main", data, arm)
    )
    name = next(c for c in front.CONFIGS[data] if ("public" in c) == ("public" in arm))
    shipped = load_config(str(page.REPOSITORY / name), [])
    cfg = run.make_config(plan.Run.from_dict(of), tmp_path)
    cfg.defrost()
    for node in (shipped, cfg):
        assert node.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.TAU == of["strength"]
        node.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.FILE = node.MODEL.WEIGHTS = ""
        node.DATASETS = node.OUTPUT_DIR = node.SEED = node.DATALOADER.NUM_WORKERS = None
        node.SOLVER.CHECKPOINT_PERIOD = node.TEST.EVAL_PERIOD = None
    assert shipped == cfg


def test_parts_of_a_dataset(street):
    register_subsets(street, street, held_out=5, middle_level="kind")

    def files(part):
        return {d["file_name"] for d in DatasetCatalog.get(f"hiera_study_{street}_{part}")}

    assert {p: len(files(p)) for p in ("all", "fit", "val", "tenth", "fine", "coarse")} == {
        "all": 20, "fit": 15, "val": 5, "tenth": 2, "fine": 10, "coarse": 10,
    }  # fmt: skip
    assert files("fit") | files("val") == files("fine") | files("coarse") == files("all")
    assert not files("fit") & files("val") and not files("fine") & files("coarse")
    coarse = MetadataCatalog.get(f"hiera_study_{street}_coarse").label_map
    assert coarse == {
        "pavement": "flat/ground", "road": "flat/ground", "car": "vehicle/four",
        "bus": "vehicle/four", "bike": "vehicle/bike", "void": None,
    }  # fmt: skip


def test_ends_of_drives_are_held_out(monkeypatch):
    frames = [{"file_name": f"{drive}_{i:03}.png"} for drive in ("a", "b") for i in range(10)]
    monkeypatch.setattr(subsets.DatasetCatalog, "get", {"street": frames}.get)
    found = {
        ends: [Path(d["file_name"]).stem for d in subsets.list_drives("street", 0.2, ends=ends)]
        for ends in (True, False)
    }
    assert found[True] == ["a_008", "a_009", "b_008", "b_009"]
    assert len(found[False]) == 16 and not {*found[True]} & {*found[False]}


def test_the_control_shifts_leaves_by_their_share_of_all_pixels(tmp_path):
    planned = plan.Run("rate", "camvid", "marginal_ce", 0, 0.02, 1, ("all",), "", False)
    cfg = run.make_config(planned, tmp_path)
    cfg.defrost()
    cfg.MODEL.HIERA_SEG.HIERARCHY = "camvid"
    model = HieraTrainer.build_model(cfg)
    tree, bias = model.hierarchy, model.sem_seg_head.predictor.bias
    pixels = np.arange(tree.num_nodes)
    adjust_priors(model, pixels, 0.5)
    shares = (pixels[: tree.num_leaves] + 1) / (pixels[: tree.num_leaves] + 1).sum()
    np.testing.assert_allclose(bias[: tree.num_leaves].detach(), -np.log(shares) / 2, rtol=1e-6)
    assert not bias[tree.num_leaves :].any()


def test_resamples_are_scored_as_a_test_set_is():
    rng = np.random.default_rng(1)
    per_image = rng.integers(0, 50, (7, 5, 5))
    images = [(f"{i}.png", Cells.of(matrix)) for i, matrix in enumerate(per_image)]
    found = np.array(bootstrap(ImageCounts.of("street", TREE, images)))
    assert found.shape == (3, NUM_RESAMPLES)
    draws = np.random.default_rng(0).multinomial(7, [1 / 7] * 7, size=NUM_RESAMPLES)
    for i in (0, NUM_RESAMPLES - 1):
        nodes = np.zeros((TREE.num_nodes,) * 2, np.int64)
        nodes[:5, :5] = sum(n * matrix for n, matrix in zip(draws[i], per_image, strict=True))
        for level in range(3):
            expected = 100 * level_scores(collapse_nodes(nodes, TREE, level)).miou
            assert found[level, i] == pytest.approx(expected, abs=1e-3)


def test_pixels_near_a_change_of_class():
    road, car, void = TREE["road"], TREE["car"], 255
    truth = np.full((4, 40), road)
    truth[:, 20:] = car
    truth[:, 35:] = void  # void is no class: no boundary there, and it is not counted
    labels = np.full((4, 40), road)
    near, away = count_near_boundary(labels, truth, TREE)[2]
    assert near.tolist() == [4 * BOUNDARY_WIDTH, 4 * 2 * BOUNDARY_WIDTH]
    assert away.tolist() == [4 * (20 - BOUNDARY_WIDTH), 4 * (35 - 2 * BOUNDARY_WIDTH)]
    labels[:, 20:] = TREE["bus"]
    assert count_near_boundary(labels, truth, TREE)[1].tolist() == [[40, 40], [100, 100]]


@pytest.mark.parametrize("arm", ["marginal_ce", "level_ce", "focal_tree_min_triplet"])
def test_a_run_from_config_to_line(arm, street, tmp_path, monkeypatch):
    data = design.Data(street, street, None, 5, "kind")
    monkeypatch.setitem(design.DATA, "camvid", data)
    monkeypatch.setattr("projects.HSSN.study.run.PREFIX", "hiera_study")
    register_subsets(street, street, held_out=5, middle_level="kind")
    planned = plan.Run("coarse", "camvid", arm, 1, 0.01, 2, ("fine", "coarse"), street, False)
    monkeypatch.setattr(run, "make_config", small_config)
    threads = torch.get_num_threads()
    run.train(planned, tmp_path / "out", tmp_path / "results.jsonl")
    torch.set_num_threads(threads)
    found = run.read_results(tmp_path / "results.jsonl")[planned.key]
    assert found["images"] == 20 and len(found["bootstrap"]) == 3
    assert np.array(found["confusion"]).sum() == np.array(found["boundary"])[2, :, 1].sum()
    assert [f.name for f in (tmp_path / "out" / planned.key).glob("*.pth")] == [run.WEIGHTS]
    assert plan.Run.from_dict(found) == planned
    torch.manual_seed(99)  # a run does not depend on what was drawn before
    run.train(planned, tmp_path / "again", tmp_path / "again.jsonl")
    torch.set_num_threads(threads)
    again = run.read_results(tmp_path / "again.jsonl")[planned.key]
    assert (again["loss"], again["confusion"]) == (found["loss"], found["confusion"])

    for proposal in [p for p, of in design.PROPOSALS.items() if of == arm]:
        decoded = dataclasses.replace(planned, arm=proposal, weights=planned.key, strength=0.0)
        other = dataclasses.replace(decoded, seed=2, strength=3.0)
        for one in (decoded, other):
            run.train(one, tmp_path / "out", tmp_path / "results.jsonl")
        torch.set_num_threads(threads)
        lines = run.read_results(tmp_path / "results.jsonl")
        assert lines[decoded.key]["variants"] == found["variants"]
        assert lines[other.key]["variants"] != found["variants"]


def test_a_watched_run_has_a_learning_curve(street, tmp_path, monkeypatch):
    data = design.Data(street, street, None, 5, "kind", watched=street)
    monkeypatch.setitem(design.DATA, "camvid", data)
    planned = plan.Run("main", "camvid", "flat", 1, 0.01, 4, ("all",), street, False)
    cfg = small_config(planned, tmp_path)
    cfg.TEST.EVAL_PERIOD = 2
    assert cfg.DATASETS.TEST == (street,)
    model, trained = run.train_arm(cfg)
    assert [point[0] for point in trained["curve"]] == [2, 4]
    found = measure(model.eval(), HieraTrainer.build_test_loader(cfg, street), street)
    assert trained["curve"][1][1:] == pytest.approx(found["metrics"]["mIoU"], abs=1e-2)
    plain = plan.Run("rate", "camvid", "flat", 1, 0.01, 4, ("all",), street, False)
    assert run.make_config(plain, tmp_path).DATASETS.TEST == ()


def test_measures_are_those_of_the_evaluator(street, tmp_path):
    planned = plan.Run("scratch", "camvid", "bce", 1, 0.01, 1, ("all",), street, False)
    cfg = small_config(planned, tmp_path)
    cfg.DATASETS.TEST = (street,)
    model = HieraTrainer.build_model(cfg).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    found = measure(model, HieraTrainer.build_test_loader(cfg, street), street)
    expected = HieraTrainer.test(cfg, model)["sem_seg"]
    for key in ("mIoU", "mIoU_direct"):
        by_level = [expected[f"{key}_{name}"] for name in TREE.level_names]
        assert found["metrics"][key] == pytest.approx(by_level, abs=1e-3)
    for key, rounding in (("consistency", 1e-3), ("tree_distance", 1e-4)):
        assert found["metrics"][key] == pytest.approx(expected[key], abs=rounding)


class Process:
    """A run that is done at the second look."""

    def __init__(self, planned: plan.Run, results: Path, code: int):
        self.planned, self.results, self.returncode, self.looks = planned, results, code, 0

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 2:
            return None
        if self.looks == 2 and not self.returncode:
            run.add_result(self.results, result(self.planned))
        return self.returncode


@pytest.mark.parametrize("fails", ["", "rate-camvid-bce-0.2-seed0"])
def test_the_runner_goes_through_the_plan(tmp_path, monkeypatch, capsys, fails):
    file, begun, reads = tmp_path / "results.jsonl", [], []
    args = argparse.Namespace(
        one=None, jobs=2, quick=False, list=False, results=file, output=tmp_path,
        data=["camvid"], arms=["flat", "bce"], stages=design.STAGES[1:5], seeds=[1],
    )  # fmt: skip

    def start(planned: plan.Run, _) -> Process:
        begun.append(Process(planned, file, int(planned.key == fails)))
        assert sum(process.looks < 2 for process in begun) <= 2
        return begun[-1]

    monkeypatch.setattr(run, "start", start)
    monkeypatch.setattr(run.time, "sleep", lambda seconds: None)
    read = run.read_results
    monkeypatch.setattr(run, "read_results", lambda path: reads.append(path) or read(path))
    if fails:
        with pytest.raises(SystemExit):
            run.main(args)
        assert f"{fails}: failed, see" in capsys.readouterr().err
    else:
        run.main(args)
    keys = [process.planned.key for process in begun]
    # a trunk, the rates, and the final run of an arm whose rate is known
    assert len(set(keys)) == len(keys) == 1 + 2 * 3 + (1 if fails else 2)
    assert keys[0] == "trunk-camvid-flat-seed0" and set(read(file)) == set(keys) - {fails}
    assert len(reads) <= len(keys) + 2  # not at every look
    if not fails:
        run.main(args)
        assert len(begun) == len(keys) and "repeats them" in capsys.readouterr().out


def test_several_processes_add_lines_and_half_a_line_is_passed_over(tmp_path):
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        lines = [{"key": str(i), "x": [0.5] * 5000} for i in range(8)]
        list(pool.map(run.add_result, [path] * 8, lines))
    with open(path, "a") as file:
        file.write('{"key": "half')
    assert set(run.read_results(path)) == {str(i) for i in range(8)}
    run.add_result(path, {"key": "whole"})
    assert set(run.read_results(path)) == {*map(str, range(8)), "whole"}
