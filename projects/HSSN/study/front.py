"""Make the README's results section, and a table of published results beside ours."""

import numpy as np

from .compare import (
    BASELINE,
    Results,
    decoding_gains,
    gains,
    gains_without_seed,
    next_seed,
    of,
    paired_differences,
)
from .design import DATA, LATE_SEED, QUERY_ARMS
from .tables import by_level, core_minutes, mean_and_deviation, span, table

COMPARED = ("camvid11", "person_part_lite0")  # in the table
BESIDE = ("camvid_lite0",)  # in sentences: a third dataset is too wide for a table
ADJUSTED = "[sibling adjustment](docs/decoding.md#rare-leaves-sibling-adjustment)"
ROWS = {
    "flat": "flat: cross entropy over the leaves",
    "level_ce": "`level_ce`: cross entropy per level",
    "focal_tree_min_triplet": "HSSN: `focal_tree_min` + `tree_triplet`",
    "public_sibling_adjusted": "adjusted public code: HSSN with RMI, `level_ce` and a flat head, "
    + ADJUSTED,
    "flat_sibling_adjusted": f"adjusted flat (ours): decoded by paths, {ADJUSTED}",
}
SHORT_NAMES = {arm: name.split(":")[0].replace("`", "") for arm, name in ROWS.items()}
OURS = "flat_sibling_adjusted"
HSSN = "focal_tree_min_triplet"
CONTROL = "flat_prior_adjusted"
QUERY_NAMES = {
    "leaf_softmax": "a softmax over the leaves",
    "node_sigmoid": "a sigmoid per node, trained by tree-min",
}
PLOT = "docs/images/results.png"
CONFIGS = {  # of rows to repeat
    "camvid11": ("configs/CamVid11/adjusted_flat_lite0.yaml",),
    "person_part_lite0": (
        "configs/PascalPersonPart/adjusted_flat_lite0.yaml",
        "configs/PascalPersonPart/adjusted_public_code_lite0.yaml",
    ),
}
QUERY_CONFIG = "configs/CamVid11/maskformer_node_sigmoid_lite0.yaml"

# Leaf mIoU of DeepLabV3+ on ResNet-101, single scale / several scales and mirrored: flat as in
# mmsegmentation's model zoo, HSSN as in the paper, as the public code gives for its weights; and
# our dataset of the same images.
PUBLISHED = {
    "Cityscapes val": ("80.97 / 82.03", "83.02", "81.62 / 82.71", ""),
    "Mapillary Vistas 2.0 val": ("", "", "40.16", ""),
    "Pascal-Person-Part test": ("", "", "73.44", "person_part_lite0"),
    "LIP val": ("", "", "58.71", ""),
}


def shown_datasets(results: Results) -> tuple[str, ...]:
    """Return the datasets of the table that have a row to compare."""
    return tuple(data for data in COMPARED if shown_arms(results, data))


def shown_arms(results: Results, data: str) -> list[str]:
    """Return the arms of `ROWS` that have a seed in common with the baseline."""
    arms = [arm for arm in ROWS if arm != BASELINE]
    return [arm for arm in arms if paired_differences(results, "main", data, arm)]


def front_section(results: Results) -> str:
    """Return a table, a plot, and sentences on what was run and what it shows."""
    datasets = shown_datasets(results)
    if not datasets:
        return "*No result yet.*"
    with_beside = (*datasets, *(data for data in BESIDE if shown_arms(results, data)))
    configs = [config for data in datasets for config in CONFIGS[data]]
    queries = query_networks(results)
    configs += [QUERY_CONFIG] if queries else []
    parts = [
        "Test mIoU per level of the tree, finest first. Rows differ only in loss and decoding. "
        "Bold: the best of the rows with most seeds. Minutes of one core: training with its "
        "evaluations, and test; processors differ.",
        conditions(results, datasets),
        front_table(results, datasets),
        f"{verdicts(results, with_beside)}{hssn(results, with_beside)}",
        *recipe(results, with_beside),
        *queries,
        f"![Differences to flat at every level]({PLOT})",
        "*Dots: means over seeds. Lines: 95 % intervals over test images. Strokes: seeds.*",
        "The table is made from [json lines](projects/HSSN/study/results.jsonl) by "
        "`python -m projects.HSSN.study.page`; the [study](projects/HSSN/study/README.md) has "
        "every loss, intervals, and the runs that went badly.",
        f"To repeat rows of {_list([DATA[data].title for data in datasets])}:",
        "\n".join(f"    make results RESULTS_CONFIG={config}" for config in configs),
        repetitions(results, datasets),
    ]
    return "\n\n".join(parts)


def conditions(results: Results, datasets: tuple[str, ...]) -> str:
    """Return a sentence on the network, training and test images of the runs of the table."""
    runs = [r for data in datasets for arm in ROWS for r in of(results, "main", data, arm)]
    processors = sorted({r.get("processor", "") for r in runs} - {""})
    images = ", ".join(
        f"{DATA[data].title} {of(results, 'main', data)[0]['images']}" for data in datasets
    )
    return (
        "DeepLabV3+ on EfficientNet-Lite0 from ImageNet weights, "
        f"{_either(sorted({r['iterations'] for r in runs}))} iterations on one core"
        f"{f' of {_either(processors)}' if processors else ''}, mean ± deviation over seeds. "
        f"Test images: {images}. The recipe was chosen with flat; on Person-Part "
        "each loss has its own best rate."
    )


def front_table(results: Results, datasets: tuple[str, ...]) -> str:
    """Return mIoU at every level and the minutes of a run, the best mean of a column in bold."""
    arms = [a for a in ROWS if a == BASELINE or any(a in shown_arms(results, d) for d in datasets)]
    header, columns, seeds = ["", "seeds"], [], []
    for arm in arms:
        counts = [len(of(results, "main", d, arm)) for d in datasets]
        same = len({*counts} - {0}) == 1
        seeds.append(str(max(counts)) if same else " / ".join(map(str, counts)))
    columns.append(seeds)
    for data in datasets:
        levels = of(results, "main", data)[0]["levels"]
        for level in reversed(range(len(levels))):
            first = level == len(levels) - 1
            header.append(f"{DATA[data].title}: {levels[level]}" if first else levels[level])
            found = [
                [r["metrics"]["mIoU"][level] for r in of(results, "main", data, arm)]
                for arm in arms
            ]
            most = max(map(len, found))  # a single seed does not beat a mean
            best = max(np.mean(values) for values in found if len(values) == most)
            columns.append([_cell(v, f"{best:.1f}", len(v) == most) for v in found])
        header.append("minutes")
        columns.append(
            [span(_minutes(results, r) for r in of(results, "main", data, arm)) for arm in arms]
        )
    return table(header, zip([ROWS[arm] for arm in arms], *columns, strict=True))


def verdicts(results: Results, datasets: tuple[str, ...]) -> str:
    """Return sentences on the rows that are ahead of the baseline at every level, and where."""
    ahead: dict[str, list[str]] = {}
    for arm, text in ROWS.items():
        name = text.split(":")[0]
        for data in datasets:
            found = paired_differences(results, "main", data, arm)
            if found is None or not found.ahead.all():
                continue
            levels = of(results, "main", data)[0]["levels"]
            sure = [level for i, level in enumerate(levels) if found.of_level(i).sign() > 0]
            notes = ["in the [study](projects/HSSN/study/README.md)"] if data in BESIDE else []
            notes += ["one seed"] if len(found.by_seed) == 1 else []
            if sure != levels:
                where = " and ".join(reversed(sure)) or "none"
                notes.append(f"beyond the 95 % interval over test images at {where}")
            place = DATA[data].title + (f" ({'; '.join(notes)})" if notes else "")
            ahead.setdefault(name, []).append(place)
    if not ahead:
        return "No row is ahead of flat at every level with every seed."
    sentences = [
        f"{name[0].upper()}{name[1:]} is ahead of flat at every level with every seed on "
        f"{_list(places)}."
        for name, places in ahead.items()
    ]
    return " ".join([*sentences, "No other row is, on any dataset."])


def hssn(results: Results, datasets: tuple[str, ...]) -> str:
    """Return a sentence on the paper's losses at the finest level, "" without a run of them."""
    places = []
    for data in datasets:
        found = paired_differences(results, "main", data, HSSN)
        if found is not None:
            note = " (one seed)" if len(found.by_seed) == 1 else ""
            places.append(f"{found.mean_and_interval(-1)} on {DATA[data].title}{note}")
    return f" At the finest level HSSN less flat is {_list(places)}." if places else ""


def recipe(results: Results, datasets: tuple[str, ...]) -> list[str]:
    """Return what ours adds to a config of flat, with the powers of its runs."""
    powers = {
        d: of(results, "main", d, OURS)[0]["strength"]
        for d in datasets
        if OURS in shown_arms(results, d)
    }
    if not powers:
        return []
    chosen = ", ".join(f"{power:g} on {DATA[data].title}" for data, power in powers.items())
    gained = [
        f"- {DATA[d].title}: {gains(results, 'main', d, OURS)}; by paths without the adjustment "
        + decoding_gains(results, "main", d, BASELINE, "marginal_path_sum")
        + _without_a_tree(results, d)
        for d in powers
    ]
    return [
        f"Ours decodes the weights of flat with three more lines of yaml (`TAU`: {chosen}; "
        "`tools/count_nodes.py` counts the pixels of a training set):",
        "```yaml\nMODEL:\n  HIERA_SEG:\n    TEST: {DECODE: marginal_path_sum, "
        f"SIBLING_ADJUSTMENT: {{TAU: {next(iter(powers.values())):g}, FILE: counts.json}}}}\n```",
        "Gains over flat, with 95 % intervals over test images:",
        "\n".join(gained),
        "Ours is one of five adjusted decodings that the first study had scored on the test images "
        "of CamVid and Person-Part, so that these are no untouched test of it; `TAU` was chosen on "
        "held-out images with a network of `marginal_ce`." + _late_seed(results),
    ]


def query_networks(results: Results) -> list[str]:
    """Return how query networks with and without the tree compare, [] unless both were run."""
    runs = {arm: of(results, "queries", "camvid11", arm) for arm in QUERY_ARMS}
    if not all(runs.values()):
        return []
    scores = [
        f"{QUERY_NAMES[arm]}, {' / '.join(by_level((r['metrics']['mIoU'] for r in found), 1))}"
        for arm, found in runs.items()
    ]
    without, with_tree = QUERY_ARMS
    between = _gains_and_seeds(results, with_tree, without)
    flat = _gains_and_seeds(results, with_tree, BASELINE, "main")
    seeds = min(map(len, runs.values()))
    every = [r for found in runs.values() for r in found]
    return [
        "Query networks ([Mask2Former's form](docs/mask2former.md)) from the same weights, on "
        f"{DATA['camvid11'].title}, {seeds} seed{'s' * (seeds > 1)}, {every[0]['iterations']} "
        f"iterations in {span(map(core_minutes, every))} minutes: {'; '.join(scores)}. The "
        f"sigmoid less the softmax: {between}. Less flat of the table: {flat}."
    ]


def repetitions(results: Results, datasets: tuple[str, ...]) -> str:
    """Return where one more seed of ours should fall, and where repetitions are listed."""
    places = [
        f"{DATA[data].title} {next_seed(results, 'main', data, OURS)}"
        for data in datasets
        if len(of(results, "main", data, OURS)) > 1
    ]
    expected = (
        "One more seed of ours should give (95 % prediction intervals from the seeds of the "
        f"table, as if they scattered normally): {'; '.join(places)}. "
    )
    return (
        f"{expected if places else ''}Repetitions are "
        "[listed](projects/HSSN/README.md#camvid-with-11-classes-from-imagenet-weights); one on "
        "Person-Part, with a bad seed, fell below its interval."
    )


def _gains_and_seeds(results: Results, arm: str, *baseline: str) -> str:
    """Return the gains of a query network, and the levels where it is ahead with every seed."""
    of_arm = (results, "queries", "camvid11", arm)
    found = paired_differences(*of_arm, *baseline)
    if found is None:
        return "?"
    levels = np.array(of(*of_arm)[0]["levels"])[found.ahead].tolist()
    where = _list(levels[::-1] or ["no level"])
    return f"{gains(*of_arm, *baseline)}; ahead with every seed at {where}"


def _late_seed(results: Results) -> str:
    """Return what ours gains on CamVid 11 without the seed that was added late, if it was run."""
    which = ("main", "camvid11", OURS)
    if LATE_SEED not in [r["seed"] for r in of(results, *which)]:
        return ""
    return (
        f" Seed {LATE_SEED} of CamVid 11 was added when a repetition had shown its results, low "
        f"ones with a large gain; without it the gains are "
        f"{gains_without_seed(results, LATE_SEED, *which)}."
    )


def _without_a_tree(results: Results, data: str) -> str:
    """Return what the known adjustment of each leaf by its share of all pixels gains, if run."""
    if not of(results, "main", data, CONTROL):
        return ""
    return f"; by the known adjustment without a tree {gains(results, 'main', data, CONTROL)}"


def _cell(values: list[float], best: str, enough: bool) -> str:
    if not values:
        return ""
    text = mean_and_deviation(values, 1)
    return f"**{text}**" if enough and text.split()[0] == best else text


def _minutes(results: Results, result: dict) -> float:
    """Return the core minutes of a run; those of the weights too where it only decodes them."""
    source = results.get(result.get("weights"), {})
    trained = {key: source[key] for key in source if key == "seconds_per_iteration"}
    return core_minutes({**result, **trained})


def _either(values: list) -> str:
    return " or ".join(map(str, values))


def _list(texts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def published_table(results: Results) -> str:
    """Return what others published beside the results of this repository."""
    rows = []
    for name, (*published, data) in PUBLISHED.items():
        ours = ["not trained"] * 3
        by_arm = [of(results, "main", data, a) for a in (BASELINE, HSSN)]
        if all(by_arm):
            ours = [f"EfficientNet-Lite0, {by_arm[0][0]['iterations']} iterations"]
            ours += [
                mean_and_deviation((r["metrics"]["mIoU"][-1] for r in runs), 1) for runs in by_arm
            ]
        rows.append([name, *published, *ours])
    return table(
        ["", "flat, published", "HSSN, paper", "HSSN, released weights"]
        + ["network here", "flat, here", "HSSN, here"],
        rows,
    )
