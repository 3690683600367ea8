"""What tables of the study's pages are made of."""

from collections.abc import Iterable, Mapping

import numpy as np


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_deviation(values: Iterable[float], digits: int = 2, sign: str = "") -> str:
    """Mean over seeds, with the standard deviation where there are two or more."""
    values = np.array(list(values), float)
    mean = f"{values.mean():{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.{digits}f}"


def core_minutes(result: Mapping) -> float:
    """What a run took of one core: its training and its test."""
    training = result["iterations"] * (result.get("seconds_per_iteration") or 0.0)
    return (training + result["test_seconds"]) / 60
