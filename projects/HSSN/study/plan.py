"""What is run: datasets, arms, rates, seeds, and which runs wait for which.

A run is known by its key. The plan is made from the results there are: a final run waits for the
rates of its arm, and all but those from scratch wait for the trunk of their dataset.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = Path(__file__).parent / "settings"
ARMS = (
    "flat",
    "marginal_ce",
    "level_ce",
    "bce",
    "tree_min",
    "focal_tree_min",
    "focal_tree_min_triplet",
    "public_code",
)
PROPOSALS = ("prior_adjusted", "sibling_adjusted")  # of `proposals`
FEW_ARMS = ("flat", "marginal_ce", "level_ce", "focal_tree_min")  # of the questions about data
SCRATCH_ARMS = ("flat", "level_ce", "focal_tree_min")
RATES = (0.002, 0.02, 0.2)
SEEDS = (1, 2, 3)
SCRATCH_RATE = 0.05  # the rate of the shipped configs, all of them from scratch
TRUNK_ITERATIONS = 2500
ITERATIONS = 500


@dataclass(frozen=True)
class Data:
    """A dataset of the study.

    Attributes:
        train: the registered training set.
        test: the registered test set.
        val: where rates are chosen; None: `held_out` images of `train`.
        held_out: images of `train` that rates are chosen on.
        middle_level: the level that coarse labels are cut at.
    """

    train: str
    test: str
    val: str | None
    held_out: int
    middle_level: str | None


DATA = {
    "person_part": Data(
        "hiera_pascal_person_part_train", "hiera_pascal_person_part_test", None, 200, "half"
    ),
    # CamVid has validation images of its own
    "camvid": Data("hiera_camvid_train", "hiera_camvid_test", "hiera_camvid_val", 0, "kind"),
    "generated": Data("hiera_generated_train", "hiera_generated_val", None, 60, None),
}


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        stage: "trunk", "rate", "main", "scratch", "tenth", "coarse" or "check".
        data: a key of `DATA`.
        arm: one of `ARMS` or `PROPOSALS`.
        seed: of the order of the data, and of all that is drawn.
        rate: the learning rate.
        iterations: how long.
        train: parts of the dataset, see `subsets`.
        test: name of the dataset that it is evaluated on.
        trunk: whether it starts from the trunk of its dataset.
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

    @property
    def key(self) -> str:
        """Name of the run; two runs with one key are the same run."""
        rate = f"-{self.rate:g}" if self.stage == "rate" else ""
        return f"{self.stage}-{self.data}-{self.arm}{rate}-seed{self.seed}"

    def settings(self) -> tuple[Path, Path]:
        """The config files of its dataset and of its arm."""
        arm = SETTINGS / f"arm-{self.arm}-{self.data}.yaml"
        if not arm.is_file():
            arm = SETTINGS / f"arm-{self.arm}.yaml"
        return SETTINGS / f"{self.data}.yaml", arm

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, **asdict(self), "train": list(self.train)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Run":
        names = cls.__dataclass_fields__
        fields = {name: values[name] for name in names}
        return cls(**fields | {"train": tuple(fields["train"])})


def val_set(data: str) -> str:
    """The dataset that rates are chosen on."""
    return DATA[data].val or f"hiera_study_{data}_val"


def trunk_run(data: str) -> Run:
    """The flat network that all arms of a dataset start from; it never sees the held-out images."""
    return Run(
        "trunk", data, "flat", 0, SCRATCH_RATE, TRUNK_ITERATIONS, ("fit",), val_set(data), False
    )


def rate_runs(data: str, arm: str) -> list[Run]:
    """A third of the schedule at each rate."""
    return [
        Run("rate", data, arm, 0, rate, ITERATIONS // 3, ("fit",), val_set(data)) for rate in RATES
    ]


def chosen_rate(data: str, arm: str, results: Mapping[str, dict]) -> float | None:
    """The rate with the best mean of the levels' mIoU on held-out images; None: not all there."""
    runs = rate_runs(data, arm)
    if any(run.key not in results for run in runs):
        return None
    scores = [np.mean(results[run.key]["metrics"]["mIoU"]) for run in runs]
    # NaN is worst: a rate at which training broke down
    return runs[int(np.argmax(np.nan_to_num(scores, nan=-1)))].rate


def final_runs(data: str, arm: str, rate: float, stages: Iterable[str]) -> list[Run]:
    """The runs of one arm at its rate, scored on the test set."""
    runs = []
    test = DATA[data].test
    for seed in SEEDS:
        at = (seed, rate, ITERATIONS)
        if "main" in stages and data != "generated":
            runs.append(Run("main", data, arm, *at, ("all",), test))
        if "check" in stages and data == "generated" and seed == SEEDS[0]:
            runs.append(Run("check", data, arm, *at, ("all",), test))
        if arm in FEW_ARMS and data != "generated":
            if "tenth" in stages:
                runs.append(Run("tenth", data, arm, *at, ("tenth",), test))
            if "coarse" in stages:
                # without a leaf, the flat loss has nothing to learn from an image
                parts = ("fine",) if arm == "flat" else ("fine", "coarse")
                runs.append(Run("coarse", data, arm, *at, parts, test))
    return runs


def scratch_runs(data: str) -> list[Run]:
    """A control: a flat trunk may favour the flat loss."""
    return [
        Run("scratch", data, arm, 1, SCRATCH_RATE, 2 * ITERATIONS, ("all",), DATA[data].test, False)
        for arm in SCRATCH_ARMS
    ]


STAGES = ("trunk", "rate", "main", "check", "scratch", "tenth", "coarse")


def ready_runs(
    results: Mapping[str, dict],
    *,
    data: Iterable[str] = tuple(DATA),
    arms: Iterable[str] = ARMS + PROPOSALS,
    stages: Iterable[str] = STAGES,
    seeds: Iterable[int] = SEEDS,
) -> list[Run]:
    """The runs that are still to be done and wait for nothing, the most telling ones first.

    Args:
        results: by key, what is done.
        data, arms, stages, seeds: what to run of the whole study.
    """
    stages, arms, seeds = tuple(stages), tuple(arms), tuple(seeds)
    wanted: list[Run] = []
    for name in data:
        if "scratch" in stages and name != "generated":
            wanted += [run for run in scratch_runs(name) if run.arm in arms]
        if trunk_run(name).key not in results:
            wanted.append(trunk_run(name))
            continue
        for arm in arms:
            rate = chosen_rate(name, arm, results)
            if rate is None:
                wanted += rate_runs(name, arm)
            else:
                wanted += [r for r in final_runs(name, arm, rate, stages) if r.seed in seeds]
    missing = [run for run in wanted if run.key not in results]
    order = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(missing, key=lambda run: (run.arm in PROPOSALS, order[run.stage], run.seed))
