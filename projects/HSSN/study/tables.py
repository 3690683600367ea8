"""Format the cells of the tables of the study's pages."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# The 97.5 % quantiles of Student's t distribution, with 1, 2, ... degrees of freedom.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def mean_and_deviation(values: Iterable[float], digits: int = 2, sign: str = "") -> str:
    """Return the mean over seeds, with the standard deviation if there are two or more."""
    values = np.array(list(values), float)
    mean = f"{values.mean():{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.{digits}f}"


def prediction_interval(values: Iterable[float]) -> tuple[float, float]:
    """Return where one more value falls with 95 %, if they are independent and scatter normally."""
    values = np.array(list(values), float)
    quantile = STUDENT_T[: len(values) - 1][-1]
    half = quantile * values.std(ddof=1) * np.sqrt(1 + 1 / len(values))
    return values.mean() - half, values.mean() + half


def by_level(scores: Iterable[Sequence[float]], digits: int = 2) -> list[str]:
    """Return mean and deviation of each level, fine to coarse, of scores from coarse to fine."""
    return [mean_and_deviation(level, digits) for level in list(zip(*scores, strict=True))[::-1]]


def span(values: Iterable[float]) -> str:
    """Return the least and the greatest of some values, rounded; "" if there are none."""
    values = sorted(values)
    return " to ".join(dict.fromkeys(f"{end:.0f}" for end in values[:1] + values[-1:]))


def core_minutes(result: Mapping) -> float:
    """Return the minutes of one core for a run: training, what is evaluated during it, and test."""
    training = result["iterations"] * (result.get("seconds_per_iteration") or 0.0)
    return (training + result["test_seconds"]) / 60
