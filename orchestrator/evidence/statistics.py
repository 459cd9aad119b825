"""Means, intervals and paired differences over seeds. Accuracies are fractions in [0, 1]."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.front.repeats import CONFIDENCE, t_quantile, t_within

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
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean=mean, low=None, high=None, number=len(values))
    half = t_quantile(0.5 + CONFIDENCE / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean=mean, low=mean - half, high=mean + half, number=len(values))


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
    error = statistics.stdev(differences) / math.sqrt(number)
    if error == 0.0:
        return 1.0 if statistics.fmean(differences) == 0.0 else 0.0
    return max(0.0, 1.0 - t_within(abs(statistics.fmean(differences)) / error, number - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm 1979), in the order given; what has no test stays without."""
    order = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        adjusted[index] = largest
    return adjusted
