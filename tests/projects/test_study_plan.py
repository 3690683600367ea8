"""The plan of the study: which runs there are, and what each waits for."""

from projects.HSSN.study import design, page, plan, recipes, run

from .study_results import finish, result


def finish_all(results: dict, **options: object) -> list[plan.Run]:
    """Finish all runs of a plan; return them in their order."""
    begun = []
    while ready := plan.ready_runs(results, **options):
        assert len({r.key for r in ready}) == len(ready)
        begun += ready
        finish(ready, results)
    return begun


def test_runs_wait_for_trunks_and_rates():
    results: dict = {}
    options = {"data": ["camvid"], "stages": ["trunk", "rate", "main"]}
    options["arms"] = design.ARMS
    assert plan.ready_runs(results, **options) == [plan.trunk_run("camvid")]
    finish([plan.trunk_run("camvid")], results)
    rates = plan.ready_runs(results, **options)
    arms = set(design.ARMS) - {*design.LITE0_ARMS}
    assert {r.stage for r in rates} == {"rate"} and len(rates) == 3 * len(arms)
    finish([r for r in rates if r.arm == "bce"], results)
    ready = plan.ready_runs(results, **options)
    assert [r.arm for r in ready if r.stage == "main"] == ["bce"] * len(design.SEEDS)
    finish(ready, results)
    finish(plan.ready_runs(results, **options), results)
    assert plan.ready_runs(results, **options) == []


def test_from_imagenet_weights_nothing_waits_for_a_trunk_or_for_a_single_rate():
    arms = ["flat", "marginal_ce", "sibling_adjusted"]
    begun = finish_all({}, data=["camvid11"], arms=arms)
    of = design.DATA["camvid11"]
    looks = [r for r in begun if r.stage == "rate"]
    third = of.iterations // 3
    assert [(r.arm, r.iterations, r.train) for r in looks] == [
        (arm, third, ("fit",)) for arm in arms[:2]
    ]
    final = [r for r in begun if r.stage == "main"]
    assert sorted((r.arm, r.seed) for r in final) == [(a, s) for a in arms for s in of.seeds]
    assert not any(r.trunk for r in begun)
    assert {(r.rate, r.test) for r in final} == {(of.rates[0], of.test)}
    # an adjustment is chosen with the first look at its arm, which has not seen these images
    tried = [r for r in begun if r.stage == "strength"]
    assert {r.weights for r in tried} == {looks[1].key} and len(tried) == len(design.STRENGTHS)
    assert all(plan.keeps_weights(r) for r in (*looks, final[0]))
    assert {r.stage for r in plan.ready_runs({}, data=["camvid_lite0"], arms=arms)} == {"rate"}
    assert not plan.keeps_weights(tried[0])
    assert not plan.keeps_weights(plan.rate_runs("camvid", "flat")[0])


def test_recipes_are_tried_first_with_the_flat_loss_on_held_out_images(tmp_path):
    runs = plan.ready_runs({}, data=["camvid11"], arms=["flat"], stages=["recipe", "rate"])
    assert [r.recipe for r in runs] == [*recipes.RECIPES, ""]
    for planned in runs[:-1]:
        assert (planned.arm, planned.train, planned.test) == ("flat", ("fit",), runs[-1].test)
        cfg = run.make_config(planned, tmp_path)
        rate, iterations, keys = recipes.RECIPES[planned.recipe]
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (rate, iterations)
        wanted = dict(zip(keys[::2], keys[1::2], strict=True))
        assert cfg.SOLVER.OPTIMIZER == wanted["SOLVER.OPTIMIZER"]
        stride = wanted.get("MODEL.HIERA_SEG.TIMM.OUTPUT_STRIDE", 32)
        assert cfg.MODEL.HIERA_SEG.TIMM.OUTPUT_STRIDE == stride
    shipped = run.make_config(runs[-1], tmp_path)
    assert shipped.SOLVER.BASE_LR == recipes.SHIPPED_SOLVER["BASE_LR"]
    found = result(runs[0], (50.0, 40.0, 30.0))
    text = page.fill("{{recipes camvid11}}", {found["key"]: found})
    first = f"| {runs[0].recipe} | {runs[0].rate:g} | {runs[0].iterations} | 30.00 | 40.00 | 50.00"
    minutes = (0.5 * runs[0].iterations + 200) / 60  # half a second per iteration, 200 s of test
    assert f"{first} | 40.00 | {minutes:.0f} |" in text


def test_everything_is_run_once_and_on_the_test_set_at_the_end():
    results: dict = {}
    finish_all(results)
    stages = [r["stage"] for r in results.values()]
    trunks = [name for name, of in design.DATA.items() if not of.pretrained and name != "generated"]
    others = [name for name, of in design.DATA.items() if of.pretrained]
    final = [(r["data"], r["arm"]) for r in results.values() if r["stage"] == "main"]
    planned = {(data, arm) for data in trunks + others for arm in design.planned_arms("main", data)}
    assert set(final) == planned
    assert len(final) == sum(len(design.DATA[data].seeds) for data, _ in planned)
    assert {arm for data, arm in planned if data in trunks}.isdisjoint(design.LITE0_ARMS)
    older = {arm for stage in design.STAGES for arm in design.planned_arms(stage, trunks[0])}
    assert older.isdisjoint(design.LITE0_ARMS)
    assert set(design.LITE0_ARMS) <= {arm for data, arm in planned if data in others}
    coarse = [r for r in results.values() if r["stage"] == "coarse"]
    few = len({*design.FEW_ARMS, *design.PROPOSALS} - {*design.LITE0_ARMS})
    assert sum(r["data"] in trunks for r in coarse) == 2 * few
    mine = {r["arm"] for r in coarse if r["data"] in others}
    assert mine == {*design.COARSE_ARMS, "flat_prior_adjusted", "flat_sibling_adjusted"}
    fine = [r for r in results.values() if r["stage"] == "fine_half"]
    assert {(r["data"], r["arm"], *r["train"]) for r in fine} == {
        (r["data"], arm, "fine")
        for r in coarse
        if r["data"] in others
        for arm in design.FINE_HALF_ARMS
    }
    assert not any(r["data"] == "camvid11" for r in coarse)  # its labels are never cut
    for stage in ("scratch_coarse", "scratch_tenth"):
        assert stages.count(stage) == 2 * len(design.FEW_ARMS)
    assert stages.count("queries") == 2 * len(design.QUERY_ARMS)
    # a network for each arm that is adjusted, and its powers for each adjustment
    own = design.PROPOSALS.keys() - design.STRENGTHS_OF.keys()
    first = own - {*design.LITE0_ARMS}
    networks = {design.PROPOSALS[arm] for arm in first}
    adjusted = (len(trunks) * len(first) + len(others) * len(own)) * len(design.STRENGTHS)
    assert stages.count("strength") == 2 * len(networks) + adjusted
    for r in results.values():
        assert bool(r["weights"]) == (r["arm"] in design.PROPOSALS)
        if r["weights"]:
            source = results[r["weights"]]
            assert design.PROPOSALS[r["arm"]] == source["arm"] and r["strength"] > 0
            assert {source[k] == r[k] for k in ("data", "seed", "train", "test")} == {True}
        tested = r["test"] == design.DATA[r["data"]].test
        assert tested == (r["stage"] not in ("recipe", "trunk", "rate", "strength"))
        assert tested or r["train"] == ["fit"]


def test_the_main_question_comes_first_and_no_trunk_answers_those_about_labels():
    results: dict = {}
    order = []
    while ready := plan.ready_runs(results, data=["camvid"], arms=design.ARMS):
        order.append(ready[0])
        finish(ready[:1], results)
    places = {run.key: place for place, run in enumerate(order)}
    last_main = max(places[run.key] for run in order if run.stage == "main")
    for stage in ("scratch", "scratch_coarse", "scratch_tenth", "coarse"):
        found = [run for run in order if run.stage == stage]
        assert last_main < min(places[run.key] for run in found)
        later = [places[run.key] for run in order if run.stage == "scratch" and run.seed > 1]
        assert max(places[run.key] for run in found if run.seed == 1) < min(later)
        assert {run.trunk for run in found} == {stage == "coarse"}


def test_the_best_rate_on_held_out_images_is_chosen_and_a_broken_run_never():
    results = {}
    scores = (1.0, 7.0, float("nan"))
    for planned, miou in zip(plan.rate_runs("camvid", "bce"), scores, strict=True):
        results[planned.key] = result(planned, (miou,) * 3)
    assert plan.chosen_rate("camvid", "bce", results) == design.RATES[1]
    del results[planned.key]
    assert plan.chosen_rate("camvid", "bce", results) is None
