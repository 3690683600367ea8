"""Make the README's results section, and a table of published results beside ours."""

import numpy as np

from .compare import BASELINE, Results, arms_of, decoding_gains, gains, of, paired_differences
from .design import DATA
from .tables import core_minutes, mean_and_deviation, span, table

IMAGENET = ("camvid11", "camvid11_short", "person_part_lite0")
FLAT_TRUNK = ("camvid", "person_part")  # the first study
IMAGENET_BESIDE = ("camvid_lite0",)  # in sentences: a third dataset is too wide for a table
ENOUGH_SEEDS = 3  # until a newer one has as many, both are shown
SHORT = {"camvid11_short": "camvid11"}
ADJUSTED = "[sibling adjustment](docs/decoding.md#rare-leaves-sibling-adjustment)"
ROWS = {
    "flat": "flat: cross entropy over the leaves",
    "level_ce": "`level_ce`: cross entropy per level",
    "focal_tree_min_triplet": "HSSN: `focal_tree_min` + `tree_triplet`",
    "flat_sibling_adjusted": f"adjusted flat (ours): decoded by paths, {ADJUSTED}",
    "level_sibling_adjusted": f"adjusted `level_ce`: {ADJUSTED}",
    "quarter_sibling_adjusted": "adjusted `marginal_ce`: a quarter of the weight at coarser "
    f"levels, decoded by paths, {ADJUSTED}",
}
SHORT_NAMES = {arm: name.split(":")[0].replace("`", "") for arm, name in ROWS.items()}
OURS = "flat_sibling_adjusted"
PLOT = "docs/images/results.png"
NETWORKS = {
    IMAGENET: "DeepLabV3+ on EfficientNet-Lite0 from ImageNet weights",
    FLAT_TRUNK: "DeepLabV3+ on ResNet-18 from a trunk trained on the same images",
}
COMMANDS = {
    "camvid11": "make results RESULTS_CONFIG=configs/CamVid11/adjusted_flat_lite0.yaml",
    "person_part_lite0": "make results "
    "RESULTS_CONFIG=configs/PascalPersonPart/adjusted_flat_lite0.yaml",
}


# Leaf mIoU of DeepLabV3+ on ResNet-101, single scale / several scales and mirrored: flat as in
# mmsegmentation's model zoo, HSSN as in the paper, as the public code gives for its weights; and
# our data sets of the same images.
PUBLISHED = {
    "Cityscapes val": ("80.97 / 82.03", "83.02", "81.62 / 82.71", ()),
    "Mapillary Vistas 2.0 val": ("", "", "40.16", ()),
    "Pascal-Person-Part test": ("", "", "73.44", ("person_part_lite0", "person_part")),
    "LIP val": ("", "", "58.71", ()),
}
SIZES = {"person_part_lite0": "EfficientNet-Lite0", "person_part": "ResNet-18"}


def shown_groups(results: Results) -> list[tuple[str, ...]]:
    """Return the datasets of each study that is shown, those that have a row to compare."""
    groups = []
    done = {short for short, long in SHORT.items() if _has_enough(results, long)}
    for group in (IMAGENET, FLAT_TRUNK):
        if found := tuple(d for d in group if d not in done and shown_arms(results, d)):
            groups.append(found)
            if all(_has_enough(results, d) for d in group if d not in SHORT):
                break
    return groups


def shown_datasets(results: Results) -> tuple[str, ...]:
    """Return all datasets of the shown studies."""
    return tuple(data for group in shown_groups(results) for data in group)


def shown_arms(results: Results, data: str) -> list[str]:
    """Return the arms of `ROWS` that have a seed in common with the baseline."""
    there = arms_of(results, "main", data)
    return [
        arm
        for arm in ROWS
        if arm in there and arm != BASELINE and paired_differences(results, "main", data, arm)
    ]


def front_section(results: Results) -> str:
    """Return tables, a plot, and sentences on what was run and what it shows."""
    groups = shown_groups(results)
    if not groups:
        return "*No result yet.*"
    parts = [
        "Test mIoU per level of the tree, finest first. Rows of a table differ only in loss and "
        "decoding. Minutes of one core: training with its evaluations, and test; processors differ."
    ]
    for datasets in groups:
        parts += [conditions(results, datasets), front_table(results, datasets)]
        imagenet = _group(datasets) == IMAGENET
        beside = tuple(d for d in IMAGENET_BESIDE if imagenet and OURS in shown_arms(results, d))
        parts.append(verdicts(results, (*datasets, *beside)))
        if imagenet:
            parts += recipe(results, (*datasets, *beside))
    parts += [
        f"![Differences to flat at every level]({PLOT})",
        "*Dots: means over seeds. Lines: 95 % intervals over test images. Strokes: seeds.*",
        "The tables are made from [json lines](projects/HSSN/study/results.jsonl) by "
        "`python -m projects.HSSN.study.page`; the [study](projects/HSSN/study/README.md) has "
        f"every loss, intervals, and the runs that went badly.{_shorter(results)}",
    ]
    shown = {data for datasets in groups for data in datasets}
    if commands := {DATA[d].title: command for d, command in COMMANDS.items() if d in shown}:
        parts.append(f"To repeat rows of {' and of '.join(commands)}:")
        parts.append("\n".join(f"    {command}" for command in commands.values()))
    return "\n\n".join(parts)


def conditions(results: Results, datasets: tuple[str, ...]) -> str:
    """Return a sentence on the network, training and test images of the runs of a table."""
    runs = [r for data in datasets for arm in ROWS for r in of(results, "main", data, arm)]
    processors = sorted({r.get("processor", "") for r in runs} - {""})
    seeds = _seeds(results, datasets)
    images = ", ".join(
        f"{DATA[data].title} {of(results, 'main', data)[0]['images']}" for data in datasets
    )
    return (
        f"{NETWORKS[_group(datasets)]}, {_either(sorted({r['iterations'] for r in runs}))} "
        f"iterations on one core{f' of {_either(processors)}' if processors else ''}, "
        + ("one seed" if seeds == [1] else "mean ± deviation over seeds")
        + f". Test images: {images}."
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
            best = max(np.mean(values) for values in found if values)
            columns.append([_cell(values, f"{best:.1f}") for values in found])
        header.append("minutes")
        columns.append(
            [span(_minutes(results, r) for r in of(results, "main", data, arm)) for arm in arms]
        )
    return table(header, zip([ROWS[arm] for arm in arms], *columns, strict=True))


def verdicts(results: Results, datasets: tuple[str, ...]) -> str:
    """Return a sentence per dataset: which rows are ahead of the baseline, at which levels."""
    sentences = []
    for data in datasets:
        levels = of(results, "main", data)[0]["levels"]
        everywhere: dict[str, list[str]] = {}  # rows by their seeds and where they exceed chance
        partly = []
        for arm in shown_arms(results, data):
            row = ROWS[arm].split(":")[0]
            found = paired_differences(results, "main", data, arm)
            ahead = (found.by_seed > 0).all(0)
            if ahead.all():
                sure = [level for i, level in enumerate(levels) if found.of_level(i).sign() > 0]
                how = "every seed" if len(found.by_seed) > 1 else "one seed"
                if sure != levels:
                    how += f" (beyond the 95 % interval over test images at {_levels(sure)})"
                everywhere.setdefault(how, []).append(row)
            elif ahead.any():
                where = [level for level, one in zip(levels, ahead, strict=True) if one]
                partly.append(f"{row} is at {_levels(where)}")
        partly = f"; {', '.join(partly)}" if partly and not everywhere else ""
        clauses = [
            f"{' and '.join(rows)} {'are' if len(rows) > 1 else 'is'} ahead of flat at every level "
            f"with {how}"
            for how, rows in (everywhere or {"every seed": ["no row"]}).items()
        ]
        name = DATA[data].title
        if data in IMAGENET_BESIDE:
            name += " (in the [study](projects/HSSN/study/README.md) only)"
        sentences.append(f"On {name} {'; '.join(clauses)}{partly}.")
    return " ".join(sentences)


def _levels(names: list[str]) -> str:
    return " and ".join(reversed(names)) or "none"


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
        f"- {DATA[d].title}: {gains(results, 'main', d, OURS)}; decoding by paths alone gives "
        + decoding_gains(results, "main", d, BASELINE, "marginal_path_sum")
        for d in powers
    ]
    return [
        f"Ours decodes the weights of flat with three more lines of yaml (`TAU`: {chosen}; "
        "`tools/count_nodes.py` counts the pixels of a training set):",
        "```yaml\nMODEL:\n  HIERA_SEG:\n    TEST: {DECODE: marginal_path_sum, "
        f"SIBLING_ADJUSTMENT: {{TAU: {next(iter(powers.values())):g}, FILE: counts.json}}}}\n```",
        "Gains over flat, with 95 % intervals over test images:",
        "\n".join(gained),
        "Ours was chosen when one seed of CamVid 11 had been scored on test images, and `TAU` on "
        "held-out images with a network of `marginal_ce`.",
    ]


def _shorter(results: Results) -> str:
    """Return what the shorter training on CamVid 11 said, where the pages differ."""
    if not paired_differences(results, "main", "camvid11_short", "level_ce"):
        return ""
    found = gains(results, "main", "camvid11_short", "level_ce")
    return f" After a shorter training on CamVid 11 `level_ce` less flat was {found}."


def _group(datasets: tuple[str, ...]) -> tuple[str, ...]:
    return IMAGENET if datasets[0] in IMAGENET else FLAT_TRUNK


def _has_enough(results: Results, data: str) -> bool:
    """Return whether a row beside the baseline has all its seeds."""
    return any(len(of(results, "main", data, a)) >= ENOUGH_SEEDS for a in shown_arms(results, data))


def _seeds(results: Results, datasets: tuple[str, ...]) -> list[int]:
    """Return the different numbers of seeds of the rows of a table."""
    counts = {len(of(results, "main", data, arm)) for data in datasets for arm in ROWS}
    return sorted(counts - {0})


def _cell(values: list[float], best: str) -> str:
    if not values:
        return ""
    text = mean_and_deviation(values, 1)
    return f"**{text}**" if text.split()[0] == best else text


def _minutes(results: Results, result: dict) -> float:
    """Return the core minutes of a run; those of the weights too where it only decodes them."""
    source = results.get(result.get("weights"), {})
    trained = {key: source[key] for key in source if key == "seconds_per_iteration"}
    return core_minutes({**result, **trained})


def _either(values: list) -> str:
    return " or ".join(map(str, values))


def published_table(results: Results) -> str:
    """Return what others published beside the newest results of this repository."""
    rows = []
    for name, (*published, datasets) in PUBLISHED.items():
        ours = ["not trained"] * 3
        for data in datasets:
            by_arm = [of(results, "main", data, a) for a in ("flat", "focal_tree_min_triplet")]
            if all(by_arm):
                ours = [f"{SIZES[data]}, {by_arm[0][0]['iterations']} iterations"]
                ours += [
                    mean_and_deviation((r["metrics"]["mIoU"][-1] for r in runs), 1)
                    for runs in by_arm
                ]
                break
        rows.append([name, *published, *ours])
    return table(
        ["", "flat, published", "HSSN, paper", "HSSN, released weights"]
        + ["network here", "flat, here", "HSSN, here"],
        rows,
    )
