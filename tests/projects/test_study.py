"""The study of projects/HSSN/study: its plan, its measures, and the page made from results."""

import argparse
import json
import threading

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg import Hierarchy
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.engine import HieraTrainer
from hiera_seg.losses import marginal_ce_loss, write_node_counts
from hiera_seg.metrics import collapse_nodes, level_scores
from hiera_seg.modeling import decode_variant
from projects.HSSN.study import page, plan, run
from projects.HSSN.study.measure import (
    BOUNDARY_WIDTH,
    NUM_RESAMPLES,
    bootstrap,
    count_near_boundary,
    measure,
)
from projects.HSSN.study.proposals import AdjustedCE, leaf_shifts
from projects.HSSN.study.subsets import register_subsets

TREE = Hierarchy.from_dict(
    {"flat": {"ground": ["road", "pavement"]}, "vehicle": {"four": ["car", "bus"], "bike": None}},
    levels=["group", "kind", "class"],
)
NAMES = ["pavement", "road", "car", "bus", "bike", "void"]


@pytest.fixture
def street(tmp_path):
    """A registered dataset of 20 images with raw ids in an order of their own."""
    name = f"study_street_{tmp_path.name}"
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(20):
        image = rng.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
        label = rng.integers(0, len(NAMES), (40, 48), np.uint8)
        Image.fromarray(label).save(tmp_path / f"labels/{i}.png")
    register_hierarchical_dataset(
        name,
        hierarchy=TREE,
        image_root=tmp_path / "images",
        sem_seg_root=tmp_path / "labels",
        label_map={n: None if n == "void" else n for n in NAMES},
        raw_classes=NAMES,
    )
    yield name
    for registered in DatasetCatalog.list():
        if registered == name or registered.startswith(f"hiera_study_{name}"):
            DatasetCatalog.remove(registered)
            MetadataCatalog.remove(registered)


def confusion(data: str) -> list[list[int]]:
    """Leaf i has 100 - 2i pixels: 8 of leaf 0 are taken for a sibling, 4 for the last leaf."""
    tree = page.tree_of(data)
    size = tree.num_leaves
    siblings = np.flatnonzero(tree.parent[:size] == tree.parent[0])
    assert siblings[-1] > 0 and tree.parent[size - 1] != tree.parent[0]
    pixels = np.diag(100 - 2 * np.arange(size))
    pixels[[0, siblings[-1], -1], 0] += [-12, 8, 4]
    return pixels.tolist()


def result(planned: plan.Run, miou=(50.0, 40.0, 30.0), noise=0.0) -> dict:
    rng = np.random.default_rng(planned.seed)
    resampled = np.array(miou)[:, None] + noise * rng.standard_normal((3, 200))
    return {
        **planned.as_dict(),
        "metrics": {
            "mIoU": list(miou),
            "mIoU_direct": list(miou),
            "accuracy": [80.0, 70.0, 60.0],
            "consistency": 99.0,
            "tree_distance": 1.5,
            "mistake_severity": 3.0,
            "ece": [1.0, 2.0, 3.0],
        },
        "variants": {"marginal": list(miou), "leaf": list(miou)},
        "variant": "marginal",
        "confusion": confusion(planned.data),
        "leaves": list(page.tree_of(planned.data).display_names)[: len(confusion(planned.data))],
        "boundary": [[[1, 2], [3, 4]]] * 3,
        "bootstrap": resampled.tolist(),
        "levels": ["group", "kind", "class"],
        "seconds_per_iteration": 0.5,
    }


def finish(runs: list[plan.Run], results: dict) -> None:
    results |= {planned.key: result(planned) for planned in runs}


def test_runs_wait_for_trunks_and_rates():
    results: dict = {}
    options = {"data": ["camvid"], "stages": ["trunk", "rate", "main"]}
    options["arms"] = plan.ARMS
    assert plan.ready_runs(results, **options) == [plan.trunk_run("camvid")]
    finish([plan.trunk_run("camvid")], results)
    rates = plan.ready_runs(results, **options)
    assert {r.stage for r in rates} == {"rate"} and len(rates) == 3 * len(plan.ARMS)
    finish([r for r in rates if r.arm == "bce"], results)
    ready = plan.ready_runs(results, **options)
    assert [r.arm for r in ready if r.stage == "main"] == ["bce"] * len(plan.SEEDS)
    finish(ready, results)
    finish(plan.ready_runs(results, **options), results)
    assert plan.ready_runs(results, **options) == []


def test_everything_is_run_once_and_on_the_test_set_at_the_end():
    results: dict = {}
    while ready := plan.ready_runs(results):
        assert len({r.key for r in ready}) == len(ready)
        finish(ready, results)
    stages = [r["stage"] for r in results.values()]
    arms = plan.ARMS + plan.PROPOSALS
    assert stages.count("main") == 2 * len(arms) * len(plan.SEEDS)
    assert stages.count("coarse") == 2 * len(plan.FEW_ARMS) * len(plan.SEEDS)
    for r in results.values():
        tested = r["test"] == plan.DATA[r["data"]].test
        assert tested == (r["stage"] not in ("trunk", "rate"))
        assert tested or r["train"] == ["fit"]


def test_the_best_rate_on_held_out_images_is_chosen_and_a_broken_run_never():
    results = {}
    scores = (1.0, 7.0, float("nan"))
    for planned, miou in zip(plan.rate_runs("camvid", "bce"), scores, strict=True):
        results[planned.key] = result(planned, (miou,) * 3)
    assert plan.chosen_rate("camvid", "bce", results) == plan.RATES[1]
    del results[planned.key]
    assert plan.chosen_rate("camvid", "bce", results) is None


@pytest.mark.parametrize("data", plan.DATA)
@pytest.mark.parametrize("arm", plan.ARMS + plan.PROPOSALS)
def test_arms_differ_in_loss_and_decoding_alone(data, arm, tmp_path):
    runs = [plan.rate_runs(data, name)[0] for name in ("flat", arm)]
    flat, cfg = (run.make_config(planned, tmp_path) for planned in runs)
    cfg.defrost()
    own = cfg.MODEL.HIERA_SEG
    variant = decode_variant(own.TEST.DECODE, [name for name, _ in own.LOSSES])
    softmax = ("flat", "marginal_ce", *plan.PROPOSALS)
    assert (variant == "marginal") == (arm in softmax)
    for key in (
        "ADJUSTED_CE",
        "LOSSES",
        "MARGINAL_CE",
        "FOCAL_TREE_MIN",
        "TREE_MIN",
        "TREE_TRIPLET",
        "AUXILIARY",
    ):
        own[key] = flat.MODEL.HIERA_SEG[key]
    own.TEST.DECODE = flat.MODEL.HIERA_SEG.TEST.DECODE
    cfg.OUTPUT_DIR = flat.OUTPUT_DIR
    assert cfg == flat


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


def test_logits_are_shifted_by_frequencies_within_the_family(tmp_path):
    pixels = np.zeros(TREE.num_nodes)
    for leaf, count in {"road": 89, "pavement": 9, "car": 0, "bus": 0, "bike": 49}.items():
        pixels[TREE[leaf]] = count
    shares = {"road": 0.9, "pavement": 0.1, "car": 0.5, "bus": 0.5, "bike": 1.0}
    found = np.exp(leaf_shifts(pixels, TREE, "siblings"))
    assert dict(zip(TREE.leaf_names, found, strict=True)) == pytest.approx(shares)
    assert np.exp(leaf_shifts(pixels, TREE, "all")).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="within is 'kind'"):
        leaf_shifts(pixels, TREE, "kind")

    write_node_counts(tmp_path / "counts.json", dict(zip(TREE.paths, pixels, strict=True)))
    loss = AdjustedCE(TREE, file=str(tmp_path / "counts.json"), tau=2.0)
    logits = torch.randn(1, TREE.num_nodes, 2, 3, requires_grad=True)
    shifted = logits.detach().clone()
    shifted[:, :5] += 2 * torch.from_numpy(np.log(found)).float().view(1, 5, 1, 1)
    labels = torch.tensor([[[TREE["road"], TREE["vehicle"], 255]] * 2])
    value = loss(logits, labels)
    value.backward()
    torch.testing.assert_close(value.detach(), marginal_ce_loss(shifted, labels, TREE))
    assert logits.grad[:, :5].any() and torch.isfinite(logits.grad).all()


def test_resamples_are_scored_as_a_test_set_is():
    rng = np.random.default_rng(1)
    per_image = rng.integers(0, 50, (7, 5, 5))
    found = np.array(bootstrap(per_image, TREE))
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


@pytest.mark.parametrize("arm", ["sibling_adjusted", "focal_tree_min_triplet"])
def test_a_run_from_config_to_line(arm, street, tmp_path, monkeypatch):
    data = plan.Data(street, street, None, 5, "kind")
    monkeypatch.setitem(plan.DATA, "camvid", data)
    monkeypatch.setattr("projects.HSSN.study.run.PREFIX", "hiera_study")
    register_subsets(street, street, held_out=5, middle_level="kind")
    planned = plan.Run("scratch", "camvid", arm, 1, 0.01, 2, ("fine", "coarse"), street, False)

    def tiny(of, output):
        cfg = make_config(of, output)
        cfg.defrost()
        cfg.DATASETS.TRAIN = tuple(f"hiera_study_{street}_{part}" for part in of.train)
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48,), 40
        cfg.INPUT.CROP.SIZE = [32, 32]
        cfg.SOLVER.IMS_PER_BATCH = 2
        return cfg

    make_config = run.make_config
    monkeypatch.setattr(run, "make_config", tiny)
    threads = torch.get_num_threads()
    run.train(planned, tmp_path / "out", tmp_path / "results.jsonl")
    torch.set_num_threads(threads)
    found = run.read_results(tmp_path / "results.jsonl")[planned.key]
    assert found["images"] == 20 and len(found["bootstrap"]) == 3
    assert np.array(found["confusion"]).sum() == np.array(found["boundary"])[2, :, 1].sum()
    assert not list((tmp_path / "out" / planned.key).glob("*.pth"))
    assert plan.Run.from_dict(found) == planned


def test_measures_are_those_of_the_evaluator(street, tmp_path):
    planned = plan.Run("scratch", "camvid", "bce", 1, 0.01, 1, ("all",), street, False)
    cfg = run.make_config(planned, tmp_path)
    cfg.defrost()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (street,)
    cfg.INPUT.MIN_SIZE_TEST = 40
    model = HieraTrainer.build_model(cfg).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    found = measure(model, HieraTrainer.build_test_loader(cfg, street), street)
    expected = HieraTrainer.test(cfg, model)["sem_seg"]
    for level, name in enumerate(TREE.level_names):
        assert found["metrics"]["mIoU"][level] == pytest.approx(expected[f"mIoU_{name}"], abs=1e-3)
        direct = expected[f"mIoU_direct_{name}"]
        assert found["metrics"]["mIoU_direct"][level] == pytest.approx(direct, abs=1e-3)
    assert found["metrics"]["consistency"] == pytest.approx(expected["consistency"], abs=1e-3)
    assert found["metrics"]["tree_distance"] == pytest.approx(expected["tree_distance"], abs=1e-4)


def test_several_processes_add_lines_and_half_a_line_is_passed_over(tmp_path):
    path = tmp_path / "results.jsonl"
    writers = [
        threading.Thread(target=run.add_result, args=(path, {"key": str(i), "x": [0.5] * 5000}))
        for i in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with open(path, "a") as file:
        file.write('{"key": "half')
    assert set(run.read_results(path)) == {str(i) for i in range(8)}


def test_the_page_has_every_number_from_the_results(tmp_path):
    results = {}
    for arm, miou in (("flat", (50, 40, 30)), ("bce", (51, 42, 29))):
        for planned in plan.final_runs("camvid", arm, 0.02, ["main"]):
            gain = 0.1 * planned.seed
            results[planned.key] = result(planned, [m + gain for m in miou], noise=0.0)
    (tmp_path / "results.jsonl").write_text("\n".join(json.dumps(r) for r in results.values()))
    text = page.fill(
        "{{difference main camvid bce kind}}; {{value main camvid flat class}}; "
        "{{arms main person_part}}\n{{arms main camvid}}\n{{differences main camvid}}",
        results,
    )
    assert text.startswith("+2.00 [+2.00, +2.00]; 30.20; *No run of main on person_part yet.*")
    assert "| bce | 0.02 | 3 | 29.20 ± 0.10 | 42.20 ± 0.10 | 51.20 ± 0.10 |" in text
    assert "| bce | -1.00 [-1.00, -1.00], 0 of 3 | +2.00 [+2.00, +2.00], 3 of 3 |" in text
    args = argparse.Namespace(
        results=tmp_path / "results.jsonl", template=page.HERE / "template.md", output=tmp_path
    )
    page.main(args)
    made = (tmp_path / "README.md").read_text()
    assert "{{" not in made and "6 runs" in made
    assert (tmp_path / "differences-camvid.png").stat().st_size > 5000
    assert (tmp_path / "leaves-camvid.png").stat().st_size > 5000


def test_mistakes_are_told_apart_by_family():
    found = result(plan.final_runs("camvid", "flat", 0.02, ["main"])[0])
    pixels = np.sum(found["confusion"])
    places = page.places_of(found)
    assert places["pixels taken for a sibling"] == pytest.approx(100 * 8 / pixels)
    assert places["for a leaf of another family"] == pytest.approx(100 * 4 / pixels)
    # the last leaf has the fewest pixels, and 4 more are taken for it
    last = len(found["leaves"]) - 1
    assert page.leaf_iou(found)[[0, last]] == pytest.approx([88, 100 * (1 - 4 / (104 - 2 * last))])
    assert places["rarest third"] < 100
