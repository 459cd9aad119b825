"""Means, intervals and paired differences over seeds. Accuracies are fractions in [0, 1].

An accuracy on n test images is a count of hits over n, a multiple of 1/n, so that a few seeds often come out alike:
their deviation is 0 then, and any difference would look certain. No spread is taken to be below what rounding hides: an
accuracy is uniform within ±1/(2n) of what was counted, of variance 1/(12 n²), and a difference of two has twice that.
With this floor two seeds find a difference where there is none at most as often as the test says, whatever the spread;
without it up to 13 times in 100 where the test says 5.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.front.intervals import accuracy_interval, interval, rounding, standard_error

Verdict = Literal["better", "worse", "not told apart"]
LEVEL = 0.05
"""Chance of a false finding in a whole report, after Holm's correction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        low: end of Student's 95 % interval, of accuracies cut to [0, 1], of differences to [-1, 1]; `None` for fewer
            than two values.
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


def estimate(values: Sequence[float], *, num_test: int) -> Estimate:
    """Mean and interval of at least one accuracy, each on so many test images."""
    return _estimate(values, accuracy_interval(values, least_spread=rounding(num_test)))


def paired(own: Mapping[int, float], other: Mapping[int, float], *, num_test: int) -> Difference | None:
    """Differences, own less other, on the seeds that both have; `None` where there is none.

    Args:
        own: accuracies by seed.
        other: likewise.
        num_test: test images that each accuracy is on.
    """
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None
    differences = [own[seed] - other[seed] for seed in seeds]
    least = math.sqrt(2) * rounding(num_test)
    ends = interval(differences, least_spread=least)
    return Difference(
        estimate=_estimate(differences, None if ends is None else (max(-1.0, ends[0]), min(1.0, ends[1]))),
        p_value=_p_value(differences, least),
    )


def _estimate(values: Sequence[float], ends: tuple[float, float] | None) -> Estimate:
    low, high = ends or (None, None)
    return Estimate(mean=statistics.fmean(values), low=low, high=high, number=len(values))


def _p_value(differences: Sequence[float], least_spread: float) -> float | None:
    if len(differences) < 2:
        return None
    from scipy.special import stdtr

    t = statistics.fmean(differences) / standard_error(differences, least_spread=least_spread)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm 1979), in the order given; what has no test stays without."""
    order = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        adjusted[index] = largest
    return adjusted
