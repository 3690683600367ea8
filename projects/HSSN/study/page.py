"""Make the study's page: `python -m projects.HSSN.study.page` from the repository's root.

`template.md` holds the words; every number of README.md comes from `results.jsonl`. Other pages
have tables of it between `<!-- study: name argument ... -->` and `<!-- /study -->`.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hiera_seg.cli import exit_on_error

from .choices import rate_table, recipe_table, strength_table
from .compare import (
    BASELINE,
    Results,
    arms_of,
    decoding_gains,
    gains,
    gains_without_seed,
    next_seed,
    of,
    paired_differences,
    places_of,
)
from .design import ARMS, DATA, PROPOSALS, SEEDS, planned_arms, title_of
from .front import PLOT, SHORT_NAMES, front_section, published_table, shown_datasets
from .plots import plot_curves, plot_differences, plot_leaves
from .run import QUICK, RESULTS, add_result, read_results
from .tables import by_level, core_minutes, mean_and_deviation, span, table

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
PAGES = (  # others that have tables of it
    HERE.parent / "README.md",
    REPOSITORY / "README.md",
    REPOSITORY / "docs" / "mask2former.md",
)


def main(args: argparse.Namespace) -> None:
    if args.add:
        add_missing(args.results, read_results(args.add))
    results = read_results(args.results)
    for page in args.pages:
        page.write_text(fill_marked(page.read_text(), results))
    plot_differences(results, shown_datasets(results), args.plot, names=SHORT_NAMES)
    text = fill(args.template.read_text(), results)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "README.md").write_text(text)
    for data in DATA:
        if of(results, "main", data):
            plot_differences(results, [data], args.output / f"differences-{data}.png")
            plot_leaves(results, data, args.output / f"leaves-{data}.png")
        if has_curves(results, data):
            plot_curves(results, data, args.output / f"curves-{data}.png")
    print(f"{args.output / 'README.md'}: {len(results)} runs")


def fill(template: str, results: Results) -> str:
    """Replace each ``{{name argument ...}}`` by the result of the function of that name."""

    def replaced(match: re.Match) -> str:
        name, *arguments = match[1].split()
        return str(BLOCKS[name](results, *arguments))

    return re.sub(r"\{\{(.+?)\}\}", replaced, template)


def fill_marked(text: str, results: Results) -> str:
    """Put what a block makes between its marks in a page that is written by hand otherwise."""

    def replaced(match: re.Match) -> str:
        name, *arguments = match[2].split()
        return f"{match[1]}\n\n{BLOCKS[name](results, *arguments)}\n\n<!-- /study -->"

    return re.sub(r"(<!-- study: (.+?) -->).*?<!-- /study -->", replaced, text, flags=re.DOTALL)


def add_missing(path: Path, found: Results) -> None:
    """Append the results that a file of results lacks."""
    there = read_results(path)
    for key, result in found.items():
        if key not in there:
            add_result(path, result)


def arm_table(results: Results, stage: str, data: str) -> str:
    """Return every measure of every arm: mean and standard deviation over seeds."""
    arms = arms_of(results, stage, data)
    if not arms:
        return f"*No run of {stage} on {title_of(data)} yet.*"
    levels = of(results, stage, data)[0]["levels"]
    rows = []
    for arm in arms:
        runs = of(results, stage, data, arm)
        metrics = [r["metrics"] for r in runs]
        times = [r["seconds_per_iteration"] for r in runs if r.get("seconds_per_iteration")]
        rows.append(
            [
                *(arm, f"{runs[0]['rate']:g}", str(len(runs))),
                *by_level(m["mIoU"] for m in metrics),
                *by_level(m["mIoU_direct"] for m in metrics),
                mean_and_deviation(m["consistency"] for m in metrics),
                mean_and_deviation((m["tree_distance"] for m in metrics), 3),
                mean_and_deviation((m["mistake_severity"] for m in metrics), 3),
                *by_level((m["ece"] for m in metrics), 1),
                f"{np.median(times):.2f}" if times else "",
            ]
        )
    header = ["arm", "rate", "seeds", *levels[::-1], *(f"direct {x}" for x in levels[::-1])]
    header += ["consistency", "tree distance", "severity", *(f"ECE {x}" for x in levels[::-1])]
    missing = [arm for arm in planned_arms(stage, data) if arm not in arms]
    note = f"\n\nNot run so far: {', '.join(missing)}." if missing else ""
    return table([*header, "CPU s / it."], rows) + note


def level_table(results: Results, stage: str, data: str) -> str:
    """Return mIoU at every level and the time of a run, the short form of `arm_table`."""
    rows = []
    for arm in arms_of(results, stage, data):
        runs = of(results, stage, data, arm)
        levels = runs[0]["levels"]
        minutes = span(core_minutes(r) for r in runs if r.get("seconds_per_iteration"))
        processors = ", ".join(sorted({r.get("processor", "") for r in runs} - {""}))
        scores = by_level(r["metrics"]["mIoU"] for r in runs)
        rows.append([arm, str(len(runs)), *scores, minutes, processors])
    if not rows:
        return f"*No run of {stage} on {title_of(data)} yet.*"
    return table(["arm", "seeds", *reversed(levels), "minutes of a core", "processor"], rows)


def difference_table(results: Results, stage: str, data: str, baseline: str = BASELINE) -> str:
    """Return differences to a baseline: mean, deviation, interval, and seeds above zero."""
    rows = []
    for arm in arms_of(results, stage, data):
        found = paired_differences(results, stage, data, arm, baseline)
        if arm == baseline or found is None:
            continue
        columns = [arm]
        for level in reversed(range(found.by_seed.shape[1])):
            seeds = found.by_seed[:, level]
            columns.append(
                f"{mean_and_deviation(seeds, sign='+')} {found.interval(level)}, "
                f"{(seeds > 0).sum()} of {len(seeds)}"
            )
        rows.append(columns)
    if not rows:
        return f"*No pair of runs of {stage} on {title_of(data)} yet.*"
    levels = of(results, stage, data)[0]["levels"]
    return table([f"less {baseline}", *reversed(levels)], rows)


def decoding_table(results: Results, data: str) -> str:
    """Return the mIoU of the same weights with other decode variants."""
    rows = []
    for arm in arms_of(results, "main", data):
        runs = of(results, "main", data, arm)
        for variant in runs[0]["variants"]:
            own = " (own)" if variant == runs[0]["variant"] else ""
            rows.append([arm, variant + own, *by_level(r["variants"][variant] for r in runs)])
    if not rows:
        return f"*No run of main on {title_of(data)} yet.*"
    return table(["arm", "decoded by", *reversed(of(results, "main", data)[0]["levels"])], rows)


def place_table(results: Results, data: str) -> str:
    """Return an arm's accuracy on frequent and rare leaves, for siblings, and near boundaries."""
    rows = []
    for arm in arms_of(results, "main", data):
        places = [places_of(r) for r in of(results, "main", data, arm)]
        rows.append([arm, *(mean_and_deviation(p[name] for p in places) for name in places[0])])
    if not rows:
        return f"*No run of main on {title_of(data)} yet.*"
    names = places_of(of(results, "main", data)[0])
    return table(["arm", *names], rows)


def value(results: Results, stage: str, data: str, arm: str, level: str) -> str:
    """Return the mean mIoU of an arm at a level, for a sentence."""
    runs = of(results, stage, data, arm)
    if not runs:
        return "?"
    index = runs[0]["levels"].index(level)
    return f"{np.mean([r['metrics']['mIoU'][index] for r in runs]):.2f}"


def accuracy(results: Results, data: str, arm: str) -> str:
    """Return the mean pixel accuracy of an arm at the leaves, for a sentence."""
    runs = of(results, "main", data, arm)
    return f"{np.mean([r['metrics']['accuracy'][-1] for r in runs]):.1f}" if runs else "?"


def summary_table(results: Results, stage: str, *datasets: str) -> str:
    """Return mean differences to the baseline at every level of datasets, with verdicts."""
    there = {arm for data in datasets for arm in arms_of(results, stage, data)} - {BASELINE}
    arms = [arm for arm in (*ARMS, *PROPOSALS) if arm in there]
    rows = {arm: [arm] for arm in arms}
    header = [f"less {BASELINE}"]
    for data in datasets:
        runs = of(results, stage, data)
        if not runs:
            return f"*No run of {stage} on {title_of(data)} yet.*"
        levels = runs[0]["levels"]
        header += [f"{title_of(data)}: {level}" for level in reversed(levels)]
        for arm in arms:
            found = paired_differences(results, stage, data, arm)
            for level in reversed(range(len(levels))):
                mean = found and f"{found.by_seed[:, level].mean():+.2f}"
                rows[arm].append(f"{mean} {found.verdict(level)}".strip() if found else "?")
    return table(header, rows.values()) if rows else f"*No arm beside {BASELINE} in {stage} yet.*"


def gain(results: Results, stage: str, data: str, arm: str, level: str) -> str:
    """Return an arm's difference to the baseline at one level, for a sentence."""
    found = paired_differences(results, stage, data, arm)
    if found is None:
        return "?"
    index = of(results, stage, data, arm)[0]["levels"].index(level)
    return found.mean_and_interval(index)


def hours(results: Results, which: str = "all") -> str:
    """Return the core hours of the runs so far, or of those that `--quick` makes."""
    seconds = 0.0
    for r in results.values():
        chosen = which == "all" or (
            r["data"] in QUICK["data"]
            and r["arm"] in QUICK["arms"]
            and r["stage"] in QUICK["stages"]
            and r["seed"] in (0, *QUICK["seeds"])  # 0: trunks and rates
        )
        if chosen:
            seconds += 60 * core_minutes(r)
    return f"{seconds / 3600:.1f}"


def seeds_done(results: Results, stage: str, data: str) -> str:
    """Return how many seeds every arm of a stage has."""
    arms = arms_of(results, stage, data)
    return str(min((len(of(results, stage, data, arm)) for arm in arms), default=0))


def plots(results: Results, data: str) -> str:
    """Return the plots of a dataset if there are results."""
    if not any(r["arm"] != BASELINE for r in of(results, "main", data)):
        return ""
    return (
        f"![Differences of all arms to {BASELINE} on {data}](differences-{data}.png)\n\n"
        f"![Differences of each leaf's IoU to {BASELINE} on {data}](leaves-{data}.png)"
    )


def has_curves(results: Results, data: str) -> bool:
    return any(r.get("curve") for r in of(results, "main", data))


def curves(results: Results, data: str) -> str:
    """Return the plot of the learning curves if there is one."""
    if not has_curves(results, data):
        return f"*No learning curve of {data} yet.*"
    return f"![mIoU on validation images over the training on {data}](curves-{data}.png)"


def progress(results: Results) -> str:
    """Return how much of the plan has results."""
    stages = sorted({r["stage"] for r in results.values()})
    counts = [f"{sum(r['stage'] == s for r in results.values())} {s}" for s in stages]
    return f"{len(results)} runs: " + ", ".join(counts) if counts else "no run yet"


BLOCKS: dict[str, Callable[..., str]] = {
    "arms": arm_table,
    "levels": level_table,
    "differences": difference_table,
    "decoding": decoding_table,
    "places": place_table,
    "results": front_section,
    "published": published_table,
    "recipes": recipe_table,
    "rates": rate_table,
    "strengths": strength_table,
    "value": value,
    "accuracy": accuracy,
    "gain": gain,
    "gains": gains,
    "gains_without_seed": gains_without_seed,
    "decoding_gains": decoding_gains,
    "next_seed": next_seed,
    "summary": summary_table,
    "plots": plots,
    "curves": curves,
    "hours": hours,
    "seeds_done": seeds_done,
    "progress": progress,
    "seeds": lambda results: str(len(SEEDS)),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m projects.HSSN.study.page", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="json lines (%(default)s)")
    parser.add_argument("--template", type=Path, default=HERE / "template.md")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of page and plots")
    parser.add_argument("--plot", type=Path, default=REPOSITORY / PLOT, help="of the README")
    parser.add_argument("--add", type=Path, help="first add the runs of these json lines")
    parser.add_argument("--pages", type=Path, nargs="*", default=PAGES, help="with marked tables")
    return parser.parse_args()


if __name__ == "__main__":
    exit_on_error(main, parse_args())
