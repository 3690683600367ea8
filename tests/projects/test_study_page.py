"""The page that is made from the study's results, and what it compares."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
import yaml
from detectron2.config import CfgNode

from hiera_seg.cli import load_config
from projects.HSSN.study import compare, design, front, page, plan, run
from projects.HSSN.study.tables import prediction_interval

from .study_results import finish, result, some_leaves


def test_the_page_has_every_number_from_the_results(tmp_path):
    results = {}
    for arm, miou, each in (("flat", (50, 40, 30), 0.1), ("bce", (51, 42, 29), 0.5)):
        for planned in plan.final_runs("camvid", arm, 0.02, ["main"]):
            gain = each * planned.seed
            results[planned.key] = result(planned, [m + gain for m in miou], noise=0.0)
    (tmp_path / "results.jsonl").write_text("\n".join(json.dumps(r) for r in results.values()))
    text = page.fill(
        "{{gains main camvid bce}}; {{value main camvid flat class}}; "
        "{{arms main person_part}}\n{{arms main camvid}}\n{{differences main camvid}}",
        results,
    )
    assert text.startswith(
        "-0.20 [-0.20, -0.20] (class), +2.80 [+2.80, +2.80] (kind), +1.80 [+1.80, +1.80] (group); "
        "30.20; *No run of main on Person-Part yet.*"
    )
    assert "| bce | 0.02 | 3 | 30.00 ± 0.50 | 43.00 ± 0.50 | 52.00 ± 0.50 |" in text
    row = "| bce | -0.20 ± 0.40 [-0.20, -0.20], 1 of 3 | +2.80 ± 0.40 [+2.80, +2.80], 3 of 3 |"
    assert row in text
    for found in results.values():
        decoded = np.add(found["metrics"]["mIoU"], (1, 0, -2))
        found["variants"]["marginal_path_sum"] = decoded.tolist()
    text = page.fill("{{decoding_gains main camvid bce marginal_path_sum}}", results)
    assert text == "-2.00 (class), +0.00 (kind), +1.00 (group)"
    text = page.fill("{{summary main camvid}}\n{{summary main camvid person_part}}", results)
    assert "| bce | -0.20 | +2.80 ▲ | +1.80 ▲ |\n*No run" in text.replace("\n\n", "\n")
    assert "tree_min" not in text
    assert text.endswith("\n*No run of main on Person-Part yet.*")
    other = tmp_path / "other.md"
    other.write_text("mine <!-- study: levels main camvid --> old\n<!-- /study --> mine too")
    more = plan.final_runs("camvid", "tree_min", 0.02, ["main"])[0]
    lines = [results[planned.key] | {"levels": []}, result(more) | {"processor": "Z80"}]
    lines[1]["curve"] = [[250, 20.0, 10.0, 5.0], [500, 50.0, 40.0, 30.0]]
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(r) for r in lines))
    args = argparse.Namespace(
        results=tmp_path / "results.jsonl", template=page.HERE / "template.md", output=tmp_path,
        add=tmp_path / "more.jsonl", pages=[other], plot=tmp_path / "results.png",
    )  # fmt: skip
    page.main(args)
    marked = other.read_text()
    assert marked.startswith("mine <!-- study: levels main camvid -->\n\n| arm | seeds |")
    assert marked.endswith("\n\n<!-- /study --> mine too") and "old" not in marked
    # 500 iterations of half a second and 200 seconds of test
    assert "| tree_min | 1 | 30.00 | 40.00 | 50.00 | 8 | Z80 |" in marked
    page.main(args)
    assert other.read_text() == marked
    made = (tmp_path / "README.md").read_text()
    assert "{{" not in made and "7 runs" in made
    assert "](differences-camvid.png)" in made and "person_part.png" not in made
    for plot in ("differences", "curves", "leaves"):
        assert (tmp_path / f"{plot}-camvid.png").stat().st_size > 5000
    assert not (tmp_path / "curves-person_part.png").exists()
    assert page.fill("{{curves camvid}}", results) == "*No learning curve of camvid yet.*"


def test_the_page_tells_what_the_runs_took():
    results: dict = {}
    while ready := plan.ready_runs(results):
        finish(ready, results)
    quick: dict = {}
    while ready := plan.ready_runs(quick, **run.QUICK):
        finish(ready, quick)
    for text, runs in (("{{hours}}", results), ("{{hours quick}}", quick)):
        seconds = sum(200 + (not r["weights"]) * 0.5 * r["iterations"] for r in runs.values())
        assert page.fill(text, results) == f"{seconds / 3600:.1f}"


def test_mistakes_are_told_apart_by_family():
    found = result(plan.final_runs("camvid", "flat", 0.02, ["main"])[0])
    pixels = np.sum(found["confusion"])
    places = compare.places_of(found)
    assert places["pixels taken for a sibling"] == pytest.approx(100 * 8 / pixels)
    assert places["for a leaf of another family"] == pytest.approx(100 * 4 / pixels)
    leaves = list(some_leaves("camvid"))
    assert compare.leaf_iou(found)[leaves] == pytest.approx([88, 100 / 1.08, 100 / 1.04])
    thirds = [places[f"{x} third"] for x in ("IoU of the most frequent", "middle", "rarest")]
    mean = np.average(thirds, weights=[11, 10, 10])
    assert np.mean(compare.leaf_iou(found)) == pytest.approx(mean)


def made_up_runs(data: str, gains: dict[str, float]) -> dict[str, dict]:
    """Three seeds of arms that are `gains` ahead of the flat one; the last one only decodes."""
    results = {}
    for arm, gain in {"flat": 0.0, **gains}.items():
        source = design.PROPOSALS.get(arm)
        for planned in plan.final_runs(data, source or arm, 0.02, ["main"])[:3]:
            weights, trained = planned.key if source else "", planned.iterations
            planned = dataclasses.replace(planned, arm=arm, weights=weights)
            line = result(planned, [m + gain + planned.seed for m in (50.0, 40.0, 30.0)])
            results[planned.key] = line | {"images": 233, "processor": "Z80", "iterations": trained}
    return results


def test_one_more_value_falls_within_the_prediction_interval_in_95_of_100_cases():
    samples = np.random.default_rng(0).normal(60, 2, (20_000, 4))
    inside = [low <= x[3] <= high for x in samples for low, high in [prediction_interval(x[:3])]]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.005)


def test_the_readme_shows_rows_of_two_datasets():
    assert page.fill("{{results}}", {}) == "*No result yet.*"
    alone = {k: r for k, r in made_up_runs("camvid11", {}).items() if r["arm"] == "flat"}
    assert page.fill("{{results}}", alone) == "*No result yet.*"

    new = made_up_runs("camvid11", {"level_ce": -1.0, "bce": 9.0, front.OURS: 2.0})
    for r in new.values():
        r["strength"] = 0.75
    text = page.fill("{{results}}", new)
    iterations = design.DATA["camvid11"].iterations
    # a third of a minute per 40 iterations, and 200 seconds of test, also where only decoded
    minutes = f"{(iterations * 0.5 + 200) / 60:.0f}"
    row = "| 3 | **33.0 ± 1.0** | **43.0 ± 1.0** | **53.0 ± 1.0** |"
    ours = next(line for line in text.splitlines() if line.startswith("| adjusted"))
    assert row in ours and ours.endswith(f"| {minutes} |")
    assert "| flat: cross entropy over the leaves | 3 | 31.0 ± 1.0 | 41.0 ± 1.0 |" in text
    assert "Person-Part:" not in text and "bce" not in text and "HSSN less" not in text
    assert f", {iterations} iterations on one core of Z80" in text and "CamVid 11 233" in text
    ahead = "Adjusted flat (ours) is ahead of flat at every level with every seed on"
    assert f"{ahead} CamVid 11. No other row is" in text
    assert "configs/CamVid11/adjusted_flat_lite0.yaml" in text and front.PLOT in text
    # mean 33, deviation 1: 4.303 (Student's t, two degrees of freedom) times the root of 4 / 3
    assert "normally): CamVid 11 28.0 to 38.0 (class), 38.0 to 48.0 (kind), 48.0 to " in text
    one = page.fill("{{results}}", {k: r for k, r in new.items() if not r["seed"]})
    assert "prediction" not in one and "Repetitions are [listed]" in one

    other = made_up_runs("person_part_lite0", {"level_ce": 1.0, front.HSSN: -2.0})
    text = page.fill("{{results}}", new | other)
    assert "At the finest level HSSN less flat is -2.00 [-2.00, -2.00] on Person-Part." in text
    header = text.split("| --- |")[0].splitlines()[-1]
    assert "CamVid 11: class | kind | group | minutes | Person-Part: " in header
    assert "`level_ce` is ahead of flat at every level with every seed on Person-Part." in text
    first = {k: r for k, r in new.items() if r["arm"] != "level_ce" or not r["seed"]}
    text = page.fill("{{results}}", first | other)
    assert "| `level_ce`: cross entropy per level | 1 / 3 |" in text
    high = {k: r for k, r in made_up_runs("camvid11", {"level_ce": 9.0}).items() if not r["seed"]}
    assert "| 1 / 3 | 39.0 | 49.0 | 59.0 |" in page.fill("{{results}}", first | other | high)

    worse = made_up_runs("camvid11", {"level_ce": -1.0})
    assert "No row is ahead of flat at every level with" in page.fill("{{results}}", worse)


def test_the_readme_tells_how_ours_is_configured_and_what_it_gains():
    results = made_up_runs("camvid11", {front.OURS: 1.0})
    for r in results.values():
        r["strength"] = 0.75
    text = page.fill("{{results}}", results)
    recipe = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    cfg = load_config(str(page.REPOSITORY / "configs/CamVid11/flat_lite0.yaml"), [])
    cfg.merge_from_other_cfg(CfgNode(recipe))
    assert cfg.MODEL.HIERA_SEG.TEST.SIBLING_ADJUSTMENT.TAU == 0.75
    assert "`TAU`: 0.75 on CamVid 11;" in text and "+1.00 [+1.00, +1.00] (group)" in text
    assert "beyond" not in text
    for r in results.values():  # ahead with every seed, but not under all resamples
        if r["arm"] == front.OURS:
            r["bootstrap"][-1] = [v + 3 * (-1) ** i for i, v in enumerate(r["bootstrap"][-1])]
    text = page.fill("{{results}}", results)
    assert "CamVid 11 (beyond the 95 % interval over test images at kind and group)." in text

    beside = made_up_runs("camvid_lite0", {front.OURS: 2.0, front.CONTROL: 0.5})
    for r in beside.values():
        r["strength"] = 0.25
    with_beside = page.fill("{{results}}", results | beside)
    assert "and CamVid 31 (in the [study](projects/HSSN/study/README.md))." in with_beside
    assert "on CamVid 11, 0.25 on CamVid 31;" in with_beside
    assert "- CamVid 31: +2.00 [+2.00, +2.00] (class)" in with_beside
    assert "; by the known adjustment without a tree +0.50 [+0.50, +0.50] (class)" in with_beside
    assert text.count("without a tree") == 0
    tables = [[x for x in t.splitlines() if x.startswith("|")] for t in (text, with_beside)]
    assert tables[0] == tables[1]  # a third dataset is too wide for a table

    one = {k: r for k, r in results.items() if not r["seed"]}
    assert "(one seed; beyond" in page.fill("{{results}}", one)

    assert "without it the gains are" not in text
    late = [dict(r, seed=design.LATE_SEED) for r in results.values() if r["seed"] == 2]
    for r in late:  # a late seed that gains ten more
        more = 10.0 if r["arm"] == front.OURS else 0.0
        r["metrics"] = r["metrics"] | {"mIoU": [m + more for m in r["metrics"]["mIoU"]]}
    text = page.fill("{{results}}", results | {f"late {r['arm']}": r for r in late})
    assert "Seed 3 of CamVid 11 was added" in text and "without it the gains are +1.00 [" in text
    assert "- CamVid 11: +3.50 [" in text


def test_the_readme_compares_query_networks_with_each_other_and_with_flat():
    results = made_up_runs("camvid11", {"level_ce": 1.0})
    text = page.fill("{{results}}", results)
    assert "Query" not in text and front.QUERY_CONFIG not in text
    for planned in plan.query_runs("camvid11"):
        gain = planned.seed + (2.0 if planned.arm == "node_sigmoid" else 0.5)
        line = result(planned, [m + gain for m in (50.0, 40.0, 30.0)])
        results[planned.key] = line | {"iterations": planned.iterations}
    text = page.fill("{{results}}", results)
    minutes = f"{(planned.iterations * 0.5 + 200) / 60:.0f}"
    assert f"2 seeds, {planned.iterations} iterations in {minutes} minutes: a softmax" in text
    assert "leaves, 31.0 ± 0.7 / 41.0 ± 0.7 / 51.0 ± 0.7; a sigmoid per node" in text
    assert "less the softmax: +1.50 [+1.50, +1.50] (class), " in text
    assert "Less flat of the table: +2.00 [+2.00, +2.00] (class), " in text
    assert text.count("(group); ahead with every seed at class, kind and group.") == 2
    results[planned.key]["metrics"]["mIoU"] = [60.0, 30.0, 20.0]  # of node_sigmoid, its last seed
    text = page.fill("{{results}}", results)
    assert text.count("(group); ahead with every seed at group.") == 2
    assert f"RESULTS_CONFIG={front.QUERY_CONFIG}\n" in text + "\n"
    assert (page.REPOSITORY / front.QUERY_CONFIG).is_file()


def test_published_results_stand_beside_ours_of_both_losses():
    row = "| Pascal-Person-Part test |  |  | 73.44 | {} |"
    flat_alone = made_up_runs("person_part_lite0", {"level_ce": 1.0})
    missing = row.format("not trained | not trained | not trained")
    assert missing in page.fill("{{published}}", flat_alone)
    both = made_up_runs("person_part_lite0", {"focal_tree_min_triplet": 1.0})
    iterations = f"EfficientNet-Lite0, {design.LITE0_ITERATIONS} iterations"
    found = row.format(f"{iterations} | 31.0 ± 1.0 | 32.0 ± 1.0")
    assert found in page.fill("{{published}}", both)


def test_the_readme_gets_section_and_plot(tmp_path):
    results = made_up_runs("camvid11", {"level_ce": 1.0})
    (tmp_path / "results.jsonl").write_text("\n".join(json.dumps(r) for r in results.values()))
    readme = (page.REPOSITORY / "README.md").read_text()
    before, after = readme.split("<!-- study: results -->")[0], readme.split("<!-- /study -->")[1]
    (tmp_path / "README.md").write_text(readme)
    args = argparse.Namespace(
        results=tmp_path / "results.jsonl", template=page.HERE / "template.md",
        output=tmp_path / "study", add=None, pages=[tmp_path / "README.md"],
        plot=tmp_path / "results.png",
    )  # fmt: skip
    page.main(args)
    made = (tmp_path / "README.md").read_text()
    assert made.startswith(before) and made.endswith(after) and "CamVid 11: class" in made
    assert args.plot.stat().st_size > 5000
    assert (page.REPOSITORY / front.PLOT).is_file()


def test_the_committed_readme_is_made_from_the_committed_results():
    results = run.read_results(run.RESULTS)
    for file in page.PAGES:
        assert page.fill_marked(file.read_text(), results) == file.read_text(), file
    assert (page.HERE / "README.md").read_text() == page.fill(
        (page.HERE / "template.md").read_text(), results
    )
