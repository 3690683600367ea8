"""List the runs of the study and their dependencies.

A run is known by its key. The plan is made from the results there are: a final run waits for the
rates of its arm, and all but those from scratch wait for the trunk of their dataset.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .design import (
    ALL_SEEDS,
    ARMS,
    COARSE_ARMS,
    DATA,
    FEW_ARMS,
    FINE_HALF_ARMS,
    ITERATIONS,
    KEPT_STAGES,
    LITE0_ARMS,
    LITE0_SEEDS,
    PROPOSALS,
    QUERY_ARMS,
    QUERY_RATE,
    SCRATCH_ARMS,
    SCRATCH_RATE,
    SEEDS,
    STAGES,
    STRENGTHS,
    STRENGTHS_OF,
    TRUNK_ITERATIONS,
)
from .recipes import RECIPES

SETTINGS = Path(__file__).parent / "settings"


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        stage: one of `STAGES`.
        data: a key of `DATA`.
        arm: one of `ARMS`, `PROPOSALS` or `QUERY_ARMS`.
        seed: of the order of the data, and of all that is drawn.
        rate: the learning rate.
        iterations: how long.
        train: parts of the dataset, see `subsets`.
        test: name of the dataset that it is evaluated on.
        trunk: whether it starts from the trunk of its dataset.
        weights: key of the run whose weights are decoded; "": it trains weights of its own.
        strength: of a proposal's adjustment, 0 elsewhere.
        recipe: one of `RECIPES`, which is tried; "" elsewhere.
    """

    stage: str
    data: str
    arm: str
    seed: int
    rate: float
    iterations: int
    train: tuple[str, ...]
    test: str
    trunk: bool = True
    weights: str = ""
    strength: float = 0.0
    recipe: str = ""

    @property
    def key(self) -> str:
        """Name of the run; two runs with one key are the same run."""
        tried = ""
        if self.stage == "rate":
            tried = f"-{self.rate:g}"
        elif self.stage == "recipe":
            tried = f"-{self.recipe}"
        elif self.stage == "strength" and self.weights:
            tried = f"-{self.strength:g}"
        return f"{self.stage}-{self.data}-{self.arm}{tried}-seed{self.seed}"

    def settings(self) -> tuple[Path, Path]:
        """Return the config files of its dataset and of its arm."""
        arm = SETTINGS / f"arm-{self.arm}-{self.data}.yaml"
        if not arm.is_file():
            arm = SETTINGS / f"arm-{self.arm}.yaml"
        # networks of queries have a whole config of their own
        return arm if self.stage == "queries" else SETTINGS / f"{self.data}.yaml", arm

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, **asdict(self), "train": list(self.train)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Run":
        fields = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**fields | {"train": tuple(fields["train"])})


def val_set(data: str) -> str:
    """Return the dataset on which rates are chosen."""
    return DATA[data].val or f"hiera_study_{data}_val"


def trunk_run(data: str) -> Run:
    """Return the run of the flat network that all arms start from, without held-out images."""
    return Run(
        "trunk", data, "flat", 0, SCRATCH_RATE, TRUNK_ITERATIONS, ("fit",), val_set(data), False
    )


def recipe_runs(data: str) -> list[Run]:
    """Return short runs of the flat arm, one for each tested recipe."""
    if data != "camvid11":
        return []
    return [
        Run(
            "recipe", data, "flat", 0, rate, iterations, ("fit",), val_set(data), False, recipe=name
        )
        for name, (rate, iterations, _) in RECIPES.items()
    ]


def query_runs(data: str) -> list[Run]:
    """Return two seeds of the query networks, with half the iterations of other networks."""
    if data != "camvid11":
        return []
    at = (QUERY_RATE, DATA[data].iterations // 2, ("all",), DATA[data].test, False)
    return [Run("queries", data, arm, seed, *at) for seed in LITE0_SEEDS[:2] for arm in QUERY_ARMS]


def rate_runs(data: str, arm: str) -> list[Run]:
    """Return runs of a third of the schedule at each rate, or one run if there is one rate."""
    of = DATA[data]
    at = (of.iterations // 3, ("fit",), val_set(data), not of.pretrained)
    return [Run("rate", data, arm, 0, rate, *at) for rate in of.rates]


def chosen_rate(data: str, arm: str, results: Mapping[str, dict]) -> float | None:
    """Return the rate with the best mean mIoU of the levels on held-out images; None if unknown."""
    if len(DATA[data].rates) == 1:
        return DATA[data].rates[0]
    best = best_run(rate_runs(data, arm), results)
    return best and best.rate


def mean_miou(result: Mapping[str, Any]) -> float:
    """Return the mean of the levels' mIoU, by which rates and strengths are chosen."""
    return float(np.mean(result["metrics"]["mIoU"]))


def best_run(runs: list[Run], results: Mapping[str, dict]) -> Run | None:
    """Return the run with the best mean mIoU of the levels; None if one has no result yet."""
    if any(run.key not in results for run in runs):
        return None
    scores = [mean_miou(results[run.key]) for run in runs]
    # NaN is worst: a rate at which training broke down
    return runs[int(np.argmax(np.nan_to_num(scores, nan=-1)))]


def strength_runs(data: str, arm: str, rate: float) -> tuple[Run, list[Run]]:
    """Return the network with which a proposal's strength is chosen, and a run per strength.

    The network has the rate and the whole schedule of its arm, but has not seen the held-out
    images. From ImageNet weights it is the one that its rate was chosen by.
    """
    at = (0, rate, ITERATIONS, ("fit",), val_set(data))
    network = Run("strength", data, PROPOSALS[arm], *at)
    if DATA[data].pretrained:
        network = next(run for run in rate_runs(data, PROPOSALS[arm]) if run.rate == rate)
        at = (0, rate, network.iterations, ("fit",), val_set(data), False)
    tried = [Run("strength", data, arm, *at, weights=network.key, strength=s) for s in STRENGTHS]
    return network, tried


def chosen_strength(data: str, arm: str, results: Mapping[str, dict]) -> float | None:
    """Return the strength with the best mean mIoU of the levels on held-out images, or None."""
    arm = STRENGTHS_OF.get(arm, arm)
    rate = chosen_rate(data, PROPOSALS[arm], results)
    best = rate and best_run(strength_runs(data, arm, rate)[1], results)
    return best.strength if best else None


def proposal_runs(
    data: str, arm: str, results: Mapping[str, dict], stages: Iterable[str]
) -> list[Run]:
    """Return the runs that a proposal depends on, or those that decode the runs of its arm."""
    if data == "generated":
        return []
    strength = chosen_strength(data, arm, results)
    if strength is None:
        rate = chosen_rate(data, PROPOSALS[arm], results)
        if rate is None or arm in STRENGTHS_OF or "strength" not in stages:
            return []
        network, tried = strength_runs(data, arm, rate)
        return tried if network.key in results else [network]
    runs = []
    for result in results.values():
        run = Run.from_dict(result)
        if (run.data, run.arm) == (data, PROPOSALS[arm]) and run.stage in KEPT_STAGES & {*stages}:
            runs.append(replace(run, arm=arm, weights=run.key, strength=strength))
    return runs


def final_runs(data: str, arm: str, rate: float, stages: Iterable[str]) -> list[Run]:
    """Return the runs of one arm at its rate, scored on the test set."""
    runs = []
    of = DATA[data]
    for seed in of.seeds:
        at = (seed, rate, of.iterations)
        first = seed == of.seeds[0]
        if "main" in stages and data != "generated":
            runs.append(Run("main", data, arm, *at, ("all",), of.test, not of.pretrained))
        if "check" in stages and data == "generated" and first:
            runs.append(Run("check", data, arm, *at, ("all",), of.test))
        few = arm in COARSE_ARMS if of.pretrained else first and arm in FEW_ARMS
        if "coarse" in stages and few and of.middle_level:
            parts = half_known(arm)
            runs.append(Run("coarse", data, arm, *at, parts, of.test, not of.pretrained))
        if "fine_half" in stages and arm in FINE_HALF_ARMS and of.pretrained and of.middle_level:
            runs.append(Run("fine_half", data, arm, *at, ("fine",), of.test, False))
    return runs


def half_known(arm: str) -> tuple[str, ...]:
    """Return the parts of a training set of which one half has coarse labels."""
    # without a leaf, the flat loss has nothing to learn from an image
    return ("fine",) if arm == "flat" else ("fine", "coarse")


def scratch_runs(data: str) -> list[Run]:
    """Return runs from random weights, a control because a flat trunk may favour the flat loss.

    Also the questions about labels, whose answers the trunk knows: it has seen them all.
    """

    def make(stage: str, arm: str, parts: tuple[str, ...], seed: int = SEEDS[0]) -> Run:
        at = (seed, SCRATCH_RATE, 2 * ITERATIONS)
        return Run(stage, data, arm, *at, parts, DATA[data].test, False)

    runs = [make("scratch", arm, ("all",), seed) for arm in SCRATCH_ARMS for seed in SEEDS]
    for arm in FEW_ARMS:
        runs.append(make("scratch_coarse", arm, half_known(arm)))
        runs.append(make("scratch_tenth", arm, ("tenth",)))
    return runs


def keeps_weights(run: Run) -> bool:
    """Return whether the weights of a run are decoded again by a proposal."""
    looks = run.stage == "rate" and DATA[run.data].pretrained
    return not run.weights and (run.stage in KEPT_STAGES | {"strength"} or looks)


def ready_runs(
    results: Mapping[str, dict],
    *,
    data: Iterable[str] = tuple(DATA),
    arms: Iterable[str] = (*ARMS, *PROPOSALS),
    stages: Iterable[str] = STAGES,
    seeds: Iterable[int] = ALL_SEEDS,
) -> list[Run]:
    """Return the runs to do that have no open dependency, the most informative ones first.

    Args:
        results: by key, what is done.
        data, arms, stages, seeds: what to run of the whole study.
    """
    stages, arms, seeds = tuple(stages), tuple(arms), tuple(seeds)
    wanted: list[Run] = []
    for name in data:
        pretrained = DATA[name].pretrained
        wanted += recipe_runs(name) if "recipe" in stages else []
        wanted += query_runs(name) if "queries" in stages else []
        if name != "generated" and not pretrained:
            runs = [r for r in scratch_runs(name) if r.stage in stages and r.seed in seeds]
            wanted += [r for r in runs if r.arm in arms]
        if not pretrained and trunk_run(name).key not in results:
            wanted.append(trunk_run(name))
            continue
        for arm in arms:
            if arm in LITE0_ARMS and not pretrained:
                continue
            if arm in PROPOSALS:
                runs = proposal_runs(name, arm, results, stages)
                wanted += [r for r in runs if r.seed in seeds or r.stage == "strength"]
                continue
            rate = chosen_rate(name, arm, results)
            if rate is None or (pretrained and "rate" in stages):
                wanted += rate_runs(name, arm)
            if rate is not None:
                wanted += [r for r in final_runs(name, arm, rate, stages) if r.seed in seeds]
    missing = {run.key: run for run in wanted if run.key not in results}  # each network once
    order = {stage: place for place, stage in enumerate(STAGES)}
    # every question gets an answer before the control gets a second seed
    return sorted(
        missing.values(),
        key=lambda run: (run.stage == "scratch" and run.seed > 1, order[run.stage], run.seed),
    )
