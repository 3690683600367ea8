"""Format tables of the choices made on held-out images: recipe, rates, powers of adjustments."""

from collections.abc import Iterable, Mapping

import numpy as np

from .compare import Results
from .design import ARMS, DATA, PROPOSALS, STRENGTHS, STRENGTHS_OF
from .plan import chosen_rate, mean_miou, rate_runs, recipe_runs, strength_runs
from .tables import core_minutes, table


def recipe_table(results: Results, data: str) -> str:
    """Return the scores of each tested recipe on held-out images."""
    rows = []
    for run in recipe_runs(data):
        found = results.get(run.key)
        if found:
            values = (*found["metrics"]["mIoU"][::-1], mean_miou(found))
            numbers = [f"{run.rate:g}", str(run.iterations), *(f"{v:.2f}" for v in values)]
            rows.append([run.recipe, *numbers, f"{core_minutes(found):.0f}"])
            levels = found["levels"][::-1]
    if not rows:
        return "*Not yet run.*"
    return table(["recipe", "rate", "iterations", *levels, "mean", "minutes of a core"], rows)


def rate_table(results: Results, data: str) -> str:
    """Return the mean of the levels' mIoU on held-out images at each rate."""
    rows = {}
    for arm in ARMS:
        done = [results.get(run.key) for run in rate_runs(data, arm)]
        if all(done):
            rows[arm] = [mean_miou(r) for r in done]
    return choice_table(rows, DATA[data].rates)


def strength_table(results: Results, data: str) -> str:
    """Return the same for each strength of a proposal's adjustment, and without it."""
    rows = {}
    for arm in sorted(PROPOSALS.keys() - STRENGTHS_OF.keys()):
        rate = chosen_rate(data, PROPOSALS[arm], results)
        if rate is None:
            continue
        network, runs = strength_runs(data, arm, rate)
        done = [results.get(run.key) for run in runs]
        if network.key in results and all(done):
            plain = results[network.key]["variants"][done[0]["variant"]]
            rows[arm] = [np.mean(plain), *map(mean_miou, done)]
    return choice_table(rows, (0, *STRENGTHS))


def choice_table(rows: Mapping[str, list[float]], tried: Iterable[float]) -> str:
    """Return the scores of each choice of each arm on held-out images, the best one in bold."""
    if not rows:
        return "*Not yet run.*"
    marked = [
        [arm, *(f"**{s:.2f}**" if s == np.nanmax(scores) else f"{s:.2f}" for s in scores)]
        for arm, scores in rows.items()
    ]
    return table(["arm", *(f"{choice:g}" for choice in tried)], marked)
