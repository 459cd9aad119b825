"""Intervals of means, by Student's t."""

import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95


def interval(values: Sequence[float], *, least_spread: float = 0.0) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean; `None` for fewer than two values.

    Args:
        values: whose mean it is of.
        least_spread: as `standard_error` takes it.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # here, as most commands need none

    error = standard_error(values, least_spread=least_spread)
    half = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * error
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def accuracy_interval(values: Sequence[float], *, least_spread: float = 0.0) -> tuple[float, float] | None:
    """`interval` of accuracies, cut to [0, 1], beyond which the mean of none lies; two seeds often reach further."""
    ends = interval(values, least_spread=least_spread)
    return None if ends is None else (max(0.0, ends[0]), min(1.0, ends[1]))


def rounding(num_images: int) -> float:
    """Standard deviation of what the accuracy on so many images hides by being a count."""
    return 1 / (math.sqrt(12) * num_images)


def standard_error(values: Sequence[float], *, least_spread: float = 0.0) -> float:
    """Of the mean of at least two values.

    Args:
        values: whose mean it is of.
        least_spread: standard deviation that they have at least, however near to each other they came out.
    """
    return max(statistics.stdev(values), least_spread) / math.sqrt(len(values))
