"""Make the study's page: `python -m projects.HSSN.study.page` from the repository's root.

`template.md` holds the words; every number of README.md comes from `results.jsonl`.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from detectron2.data import MetadataCatalog

from hiera_seg.engine import exit_on_error
from hiera_seg.hierarchy import Hierarchy, as_hierarchy
from hiera_seg.metrics import level_scores

from .plan import (
    ARMS,
    DATA,
    PROPOSALS,
    RATES,
    SEEDS,
    STRENGTHS,
    STRENGTHS_OF,
    Run,
    chosen_rate,
    rate_runs,
    strength_runs,
)
from .run import RESULTS, read_results

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HERE = Path(__file__).parent
BASELINE = "flat"
Results = Mapping[str, dict[str, Any]]


def main(args: argparse.Namespace) -> None:
    results = read_results(args.results)
    text = fill(args.template.read_text(), results)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "README.md").write_text(text)
    for data in DATA:
        if of(results, "main", data):
            plot_differences(results, data, args.output / f"differences-{data}.png")
            plot_leaves(results, data, args.output / f"leaves-{data}.png")
    print(f"{args.output / 'README.md'}: {len(results)} runs")


def fill(template: str, results: Results) -> str:
    """Replace each ``{{name argument ...}}`` by what the function of that name returns."""

    def replaced(match: re.Match) -> str:
        name, *arguments = match[1].split()
        return str(BLOCKS[name](results, *arguments))

    return re.sub(r"\{\{(.+?)\}\}", replaced, template)


def of(results: Results, stage: str, data: str, arm: str | None = None) -> list[dict[str, Any]]:
    """The results of a stage, by seed."""
    found = [
        r for r in results.values()
        if r["stage"] == stage and r["data"] == data and arm in (None, r["arm"])
    ]  # fmt: skip
    return sorted(found, key=lambda r: r["seed"])


def arms_of(results: Results, stage: str, data: str) -> list[str]:
    """The arms that have results, in the plan's order; others, such as proposals, come last."""
    there = {r["arm"] for r in of(results, stage, data)}
    return [arm for arm in ARMS if arm in there] + sorted(there - set(ARMS))


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_deviation(values: Iterable[float], digits: int = 2) -> str:
    """Mean over seeds, with the standard deviation where there are two or more."""
    values = np.array(list(values), float)
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def arm_table(results: Results, stage: str, data: str) -> str:
    """Every measure of every arm: mean and standard deviation over seeds."""
    arms = arms_of(results, stage, data)
    if not arms:
        return f"*No run of {stage} on {data} yet.*"
    levels = of(results, stage, data)[0]["levels"]
    rows = []
    for arm in arms:
        runs = of(results, stage, data, arm)
        metrics = [r["metrics"] for r in runs]
        columns = [arm, f"{runs[0]['rate']:g}", str(len(runs))]
        for name in ("mIoU", "mIoU_direct"):
            columns += [
                mean_and_deviation(m[name][level] for m in metrics)
                for level in reversed(range(len(levels)))
            ]
        columns.append(mean_and_deviation(m["consistency"] for m in metrics))
        columns.append(mean_and_deviation((m["tree_distance"] for m in metrics), 3))
        columns.append(mean_and_deviation((m["mistake_severity"] for m in metrics), 3))
        columns += [
            mean_and_deviation((m["ece"][level] for m in metrics), 1)
            for level in reversed(range(len(levels)))
        ]
        times = [r["seconds_per_iteration"] for r in runs if r.get("seconds_per_iteration")]
        columns.append(f"{np.median(times):.2f}" if times else "")
        rows.append(columns)
    header = ["arm", "rate", "seeds"]
    for name in ("", "direct ", "ECE "):
        named = [f"{name}{level}" for level in reversed(levels)]
        header += named if name != "ECE " else []
    header += ["consistency", "tree distance", "severity"]
    header += [f"ECE {level}" for level in reversed(levels)]
    return table([*header, "CPU s / it."], rows)


def paired_differences(
    results: Results, stage: str, data: str, arm: str, baseline: str = BASELINE
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """An arm's mIoU less the baseline's, of the seeds that both have.

    Returns:
        Per level, coarse to fine: the mean over seeds; and the 2.5 % and 97.5 % quantiles of the
        same mean under resampled images. None where there is no common seed.
    """
    mine = {r["seed"]: r for r in of(results, stage, data, arm)}
    other = {r["seed"]: r for r in of(results, stage, data, baseline)}
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return None

    def mean(get: Callable[[dict], Any]) -> np.ndarray:
        return np.mean([np.array(get(mine[s])) - get(other[s]) for s in seeds], axis=0)

    resampled = mean(lambda r: np.array(r["bootstrap"]))  # (levels, resamples)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    return mean(lambda r: np.array(r["metrics"]["mIoU"])), low, high


def difference_table(results: Results, stage: str, data: str, baseline: str = BASELINE) -> str:
    """Differences to a baseline with their intervals, and the seeds that agree in the sign."""
    rows = []
    for arm in arms_of(results, stage, data):
        found = paired_differences(results, stage, data, arm, baseline)
        if arm == baseline or found is None:
            continue
        mine = {r["seed"]: r for r in of(results, stage, data, arm)}
        other = {r["seed"]: r for r in of(results, stage, data, baseline)}
        seeds = sorted(mine.keys() & other.keys())
        columns = [arm]
        for level in reversed(range(len(found[0]))):
            wins = sum(
                mine[s]["metrics"]["mIoU"][level] > other[s]["metrics"]["mIoU"][level]
                for s in seeds
            )
            middle, low, high = (part[level] for part in found)
            columns.append(f"{middle:+.2f} [{low:+.2f}, {high:+.2f}], {wins} of {len(seeds)}")
        rows.append(columns)
    if not rows:
        return f"*No pair of runs of {stage} on {data} yet.*"
    levels = of(results, stage, data)[0]["levels"]
    return table([f"less {baseline}", *reversed(levels)], rows)


def decoding_table(results: Results, data: str) -> str:
    """mIoU of the same weights under other ways of decoding."""
    rows = []
    for arm in arms_of(results, "main", data):
        runs = of(results, "main", data, arm)
        for variant in runs[0]["variants"]:
            columns = [arm, variant + (" (own)" if variant == runs[0]["variant"] else "")]
            for level in reversed(range(len(runs[0]["levels"]))):
                columns.append(mean_and_deviation(r["variants"][variant][level] for r in runs))
            rows.append(columns)
    if not rows:
        return f"*No run of main on {data} yet.*"
    return table(["arm", "decoded by", *reversed(of(results, "main", data)[0]["levels"])], rows)


def place_table(results: Results, data: str) -> str:
    """Where an arm is right: frequent and rare leaves, siblings, near boundaries and away."""
    rows = []
    for arm in arms_of(results, "main", data):
        places = [places_of(r) for r in of(results, "main", data, arm)]
        rows.append([arm, *(mean_and_deviation(p[name] for p in places) for name in places[0])])
    if not rows:
        return f"*No run of main on {data} yet.*"
    names = places_of(of(results, "main", data)[0])
    return table(["arm", *names], rows)


def places_of(result: dict[str, Any]) -> dict[str, float]:
    """Percentages of one result: by frequency of the leaf, by family, by place."""
    confusion = np.array(result["confusion"], float)
    parents = tree_of(result["data"]).parent[: len(confusion)]
    family = parents[:, None] == parents[None, :]
    np.fill_diagonal(family, False)
    iou = leaf_iou(result)
    thirds = np.array_split(iou[leaves_by_frequency(result)], 3)
    near, away = (np.array(result["boundary"])[-1][place] for place in (0, 1))
    right, siblings = confusion.trace(), confusion[family].sum()
    return {
        "IoU of the most frequent third": thirds[0].mean(),
        "middle third": thirds[1].mean(),
        "rarest third": thirds[2].mean(),
        "pixels taken for a sibling": 100 * siblings / confusion.sum(),
        "for a leaf of another family": 100 * (1 - (right + siblings) / confusion.sum()),
        "accuracy near boundaries": 100 * near[0] / near[1],
        "away from them": 100 * away[0] / away[1],
    }


def tree_of(data: str) -> Hierarchy:
    return as_hierarchy(MetadataCatalog.get(DATA[data].train).hierarchy)


def leaf_iou(result: dict[str, Any]) -> np.ndarray:
    """IoU of each leaf in percent."""
    return 100 * level_scores(np.array(result["confusion"])).iou


def leaves_by_frequency(result: dict[str, Any]) -> np.ndarray:
    """The leaves that the test set has, the most frequent one first."""
    pixels = np.array(result["confusion"]).sum(axis=0)
    return np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]


def rate_table(results: Results, data: str) -> str:
    """The mean of the levels' mIoU on held-out images at each rate."""
    return choice_table(
        results, {arm: rate_runs(data, arm) for arm in ARMS}, (f"{rate:g}" for rate in RATES)
    )


def strength_table(results: Results, data: str) -> str:
    """The same of each strength of a proposal's adjustment."""
    runs = {}
    for arm in PROPOSALS.keys() - STRENGTHS_OF.keys():
        rate = chosen_rate(data, PROPOSALS[arm], results)
        if rate is not None:
            runs[arm] = strength_runs(data, arm, rate)[1]
    return choice_table(results, dict(sorted(runs.items())), (f"{s:g}" for s in STRENGTHS))


def choice_table(results: Results, runs: Mapping[str, list[Run]], tried: Iterable[str]) -> str:
    """What each choice of each arm gave on held-out images; the best one stands out."""
    rows = []
    for arm, choices in runs.items():
        done = [results[run.key] for run in choices if run.key in results]
        if len(done) < len(choices):
            continue
        scores = [np.mean(r["metrics"]["mIoU"]) for r in done]
        best = np.nanmax(scores)
        rows.append([arm, *(f"**{s:.2f}**" if s == best else f"{s:.2f}" for s in scores)])
    return table(["arm", *tried], rows) if rows else "*Not yet run.*"


def value(results: Results, stage: str, data: str, arm: str, level: str) -> str:
    """Mean mIoU of an arm at a level, for use in a sentence."""
    runs = of(results, stage, data, arm)
    if not runs:
        return "?"
    index = runs[0]["levels"].index(level)
    return f"{np.mean([r['metrics']['mIoU'][index] for r in runs]):.2f}"


def difference(results: Results, stage: str, data: str, arm: str, level: str) -> str:
    """An arm's difference to the baseline with its interval, for use in a sentence."""
    found = paired_differences(results, stage, data, arm)
    if found is None:
        return "?"
    index = of(results, stage, data, arm)[0]["levels"].index(level)
    middle, low, high = (part[index] for part in found)
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"


def seeds_done(results: Results, stage: str, data: str) -> str:
    """How many seeds every arm of a stage has."""
    arms = arms_of(results, stage, data)
    return str(min((len(of(results, stage, data, arm)) for arm in arms), default=0))


def plots(results: Results, data: str) -> str:
    """The pictures of a dataset, once there is something to draw."""
    if not any(r["arm"] != BASELINE for r in of(results, "main", data)):
        return ""
    return (
        f"![Differences of all arms to {BASELINE} on {data}](differences-{data}.png)\n\n"
        f"![Differences of each leaf's IoU to {BASELINE} on {data}](leaves-{data}.png)"
    )


def progress(results: Results) -> str:
    """How much of the plan stands in the results."""
    stages = sorted({r["stage"] for r in results.values()})
    counts = [f"{sum(r['stage'] == s for r in results.values())} {s}" for s in stages]
    return f"{len(results)} runs: " + ", ".join(counts) if counts else "no run yet"


def plot_differences(results: Results, data: str, path: Path) -> None:
    """Draw the differences of all arms to the baseline with their intervals, a panel a level."""
    levels = of(results, "main", data)[0]["levels"]
    found = {
        arm: paired_differences(results, "main", data, arm)
        for arm in arms_of(results, "main", data)
        if arm != BASELINE
    }
    found = {arm: values for arm, values in found.items() if values is not None}
    if not found:
        return
    figure, axes = plt.subplots(
        1, len(levels), figsize=(3.6 * len(levels), 0.5 + 0.42 * (len(found) + 1)), sharey=True
    )
    for level, axis in zip(reversed(range(len(levels))), axes, strict=True):
        for row, (middle, low, high) in enumerate(found.values()):
            axis.plot([low[level], high[level]], [row, row], color="#4477aa", lw=2)
            axis.plot(middle[level], row, "o", color="#222222", ms=5)
        axis.axvline(0, color="#999999", lw=1)
        axis.set_title(f"{levels[level]}: mIoU less {BASELINE}", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(found)), list(found))
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_leaves(results: Results, data: str, path: Path) -> None:
    """Draw the mean difference of each leaf's IoU to the baseline's, frequent leaves first."""
    arms = [arm for arm in arms_of(results, "main", data) if arm != BASELINE]
    base = {r["seed"]: leaf_iou(r) for r in of(results, "main", data, BASELINE)}
    rows = {}
    for arm in arms:
        pairs = [(leaf_iou(r), r["seed"]) for r in of(results, "main", data, arm)]
        found = [iou - base[seed] for iou, seed in pairs if seed in base]
        if found:
            rows[arm] = np.mean(found, axis=0)
    if not rows:
        return
    result = of(results, "main", data, BASELINE)[0]
    order = leaves_by_frequency(result)
    values = np.array([row[order] for row in rows.values()])
    end = np.nanmax(np.abs(values)) or 1.0
    figure, axis = plt.subplots(figsize=(2.6 + 0.34 * len(order), 1.5 + 0.34 * len(rows)))
    image = axis.imshow(values, cmap="RdBu", vmin=-end, vmax=end, aspect="auto")
    axis.set_yticks(range(len(rows)), list(rows))
    names = [result["leaves"][leaf] for leaf in order]
    axis.set_xticks(range(len(order)), names, rotation=60, ha="right", fontsize=8)
    axis.set_title(f"IoU less {BASELINE}; the most frequent leaf on the left", fontsize=10)
    figure.colorbar(image, ax=axis)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


BLOCKS: dict[str, Callable[..., str]] = {
    "arms": arm_table,
    "differences": difference_table,
    "decoding": decoding_table,
    "places": place_table,
    "rates": rate_table,
    "strengths": strength_table,
    "value": value,
    "difference": difference,
    "plots": plots,
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
    return parser.parse_args()


if __name__ == "__main__":
    exit_on_error(main, parse_args())
