"""Define what the study compares: its arms, datasets, rates, seeds and stages.

`plan` lists the runs.
"""

from dataclasses import dataclass

from projects import GeneratedStreets  # noqa: F401  (registers hiera_generated_*)

from .recipes import SHIPPED_SOLVER

STAGES = (
    "recipe",
    "trunk",
    "rate",
    "strength",
    "main",
    "check",
    "scratch",
    "scratch_coarse",
    "scratch_tenth",
    "coarse",
    "fine_half",
    "queries",
)
KEPT_STAGES = frozenset(("main", "coarse"))  # whose weights proposals decode
ARMS = (
    "flat",
    "marginal_ce",
    "marginal_ce_quarter",
    "level_ce",
    "bce",
    "tree_min",
    "focal_tree_min",
    "focal_tree_min_triplet",
    "public_code",
)
# Other ways to decode the weights of an arm, by that arm; nothing is trained. See `proposals`.
PROPOSALS = {
    "prior_adjusted": "marginal_ce",
    "sibling_adjusted": "marginal_ce",
    "flat_prior_adjusted": "flat",
    "flat_sibling_adjusted": "flat",
    "level_sibling_adjusted": "level_ce",
    "quarter_sibling_adjusted": "marginal_ce_quarter",
    "public_sibling_adjusted": "public_code",
}
LITE0_ARMS = (  # newer than the first study
    "marginal_ce_quarter",
    "quarter_sibling_adjusted",
    "public_sibling_adjusted",
)
STRENGTHS_OF = {  # others choose their own
    "flat_prior_adjusted": "prior_adjusted",
    "flat_sibling_adjusted": "sibling_adjusted",
}
FEW_ARMS = ("flat", "marginal_ce", "level_ce", "focal_tree_min")  # of the questions about data
QUERY_ARMS = ("leaf_softmax", "node_sigmoid")  # Mask2Former's form, compared with each other
QUERY_RATE = 0.0005  # of the shipped configs
COARSE_ARMS = ("flat", "focal_tree_min_triplet")  # the same from ImageNet weights
FINE_HALF_ARMS = ("focal_tree_min_triplet",)  # their control: the fine half alone
SCRATCH_ARMS = ("flat", "level_ce", "focal_tree_min")
RATES = (0.002, 0.02, 0.2)
LITE0_RATES = tuple(factor * SHIPPED_SOLVER["BASE_LR"] for factor in (0.25, 1, 4))
STRENGTHS = (0.25, 0.5, 0.75, 1.0)  # of proposals
SEEDS = (1, 2, 3)
LITE0_SEEDS = (0, 1, 2)
LATE_SEED = 3  # of CamVid 11: added when a repetition had shown that it is bad
ALL_SEEDS = (0, *SEEDS)
SCRATCH_RATE = 0.05  # the rate of the shipped configs, all of them from scratch
TRUNK_ITERATIONS = 2500
ITERATIONS = 500
LITE0_ITERATIONS = 1800


@dataclass(frozen=True)
class Data:
    """A dataset of the study.

    Attributes:
        train: the registered training set.
        test: the registered test set.
        val: where rates are chosen; None: `held_out` images of `train`.
        held_out: images of `train` that rates are chosen on; below 1: the last share of each drive.
        middle_level: the level that coarse labels are cut at; None: no run has any.
        pretrained: every arm starts from ImageNet weights, and not from a trunk.
        rates: among which every arm chooses; a single one is taken as it is.
        iterations: of a final run.
        seeds: of the final runs.
        watched: a dataset outside of `train` and `test` that final runs are scored on six times
            while they train; "": none. Nothing is chosen by it.
        title: in the README; "": it is not shown there.
    """

    train: str
    test: str
    val: str | None
    held_out: float
    middle_level: str | None
    pretrained: bool = False
    rates: tuple[float, ...] = RATES
    iterations: int = ITERATIONS
    seeds: tuple[int, ...] = SEEDS
    watched: str = ""
    title: str = ""


LITE0 = {
    "pretrained": True,
    "rates": LITE0_RATES,
    "iterations": LITE0_ITERATIONS,
    "seeds": LITE0_SEEDS,
}
DATA = {
    "person_part": Data(
        *("hiera_pascal_person_part_train", "hiera_pascal_person_part_test", None, 200, "half"),
        title="Person-Part",
    ),
    # CamVid has validation images of its own
    "camvid": Data(
        *("hiera_camvid_train", "hiera_camvid_test", "hiera_camvid_val", 0, "kind"),
        title="CamVid 31",
    ),
    "generated": Data("hiera_generated_train", "hiera_generated_val", None, 60, None),
    # From ImageNet weights. Neighbouring frames of a drive are nearly one image, so that whole ends
    # of drives are held out.
    "camvid11": Data(
        *("hiera_camvid11_train", "hiera_camvid11_test", None, 0.2, None),
        watched="hiera_camvid11_val",
        title="CamVid 11",
        **LITE0
        | {
            "rates": (SHIPPED_SOLVER["BASE_LR"],),
            "iterations": SHIPPED_SOLVER["MAX_ITER"],
            "seeds": (*LITE0_SEEDS, LATE_SEED),
        },
    ),
    "camvid11_short": Data(
        *("hiera_camvid11_train", "hiera_camvid11_test", None, 0.2, None),
        watched="hiera_camvid11_val",
        title="CamVid 11 (short)",
        **LITE0 | {"rates": (0.001,), "iterations": 1200},
    ),
    "camvid_lite0": Data(
        *("hiera_camvid_train", "hiera_camvid_test", None, 0.2, "kind"),
        watched="hiera_camvid_val",
        title="CamVid 31",
        **LITE0,
    ),
    "person_part_lite0": Data(
        *("hiera_pascal_person_part_train", "hiera_pascal_person_part_test", None, 200, "half"),
        title="Person-Part",
        **LITE0,
    ),
}


def title_of(data: str) -> str:
    """Return how pages call a dataset: its title, or its key if it has none."""
    return DATA[data].title or data


def planned_arms(stage: str, data: str) -> tuple[str, ...]:
    """Return the arms that are planned for a stage of a dataset."""
    of_stage = {
        "scratch": SCRATCH_ARMS,
        "scratch_coarse": FEW_ARMS,
        "scratch_tenth": FEW_ARMS,
        "main": (*ARMS, *PROPOSALS),
        "coarse": (*FEW_ARMS, *PROPOSALS),
        "fine_half": FINE_HALF_ARMS,
        "queries": QUERY_ARMS,
    }.get(stage, ARMS)
    return tuple(arm for arm in of_stage if DATA[data].pretrained or arm not in LITE0_ARMS)
