"""Intervals of means, by Student's t."""

import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean; `None` for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # here, as most commands need none

    half = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * standard_error(values)
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of at least two values."""
    return statistics.stdev(values) / math.sqrt(len(values))
