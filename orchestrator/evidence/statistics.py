"""Means, intervals and paired differences over seeds. Accuracies are fractions in [0, 1]."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.front.intervals import interval, standard_error

Verdict = Literal["better", "worse", "not told apart"]
LEVEL = 0.05
"""Chance of a false finding in a whole report, after Holm's correction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        low: end of Student's 95 % interval; `None` for fewer than two values.
        high: likewise.
        number: of values.
    """

    mean: float
    low: float | None
    high: float | None
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two arms on the same seeds.

    Attributes:
        estimate: of the differences.
        p_value: of a two-sided paired t-test; `None` for fewer than two seeds.
        adjusted: the same after Holm's correction for all tests of a report.
    """

    estimate: Estimate
    p_value: float | None
    adjusted: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What it shows, at 5 % for the whole report."""
        if self.adjusted is None or self.adjusted >= LEVEL:
            return "not told apart"
        return "better" if self.estimate.mean > 0 else "worse"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of at least one value."""
    low, high = interval(values) or (None, None)
    return Estimate(mean=statistics.fmean(values), low=low, high=high, number=len(values))


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Differences, own less other, on the seeds that both have; `None` where there is none."""
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None
    differences = [own[seed] - other[seed] for seed in seeds]
    found = estimate(differences)
    return Difference(estimate=found, p_value=_p_value(differences))


def _p_value(differences: Sequence[float]) -> float | None:
    number = len(differences)
    if number < 2:
        return None
    error = standard_error(differences)
    if error == 0.0:
        return 1.0 if statistics.fmean(differences) == 0.0 else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(number - 1, -abs(statistics.fmean(differences)) / error))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm 1979), in the order given; what has no test stays without."""
    order = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        adjusted[index] = largest
    return adjusted
