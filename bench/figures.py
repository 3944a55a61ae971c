"""What is measured once, and what becomes of several."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

type Figures = dict[str, float]
"""Of one thing measured once, by name; names end with their unit."""
type Round = Mapping[str, Figures]
"""Of everything measured in one round."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long."""

    rounds: int
    warm_up_s: float
    timed_s: float
    probes: int
    players: int


FULL, QUICK = Plan(5, 2.0, 7.0, 60, 100_000), Plan(1, 1.0, 1.0, 3, 1_000)


def summarise(runs: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Median, least and most of each figure."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: spread([run[name] for run in runs if name in run]) for name in names}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }
