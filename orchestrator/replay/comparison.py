"""Policies held against one another: how much work each took to a good front, with intervals over seeds."""

import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.replay.simulate import Replay
from orchestrator.replay.yardstick import Yardstick


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapEstimate:
    """A figure over seeds, such as their mean, with its 95 % interval (percentile bootstrap, Efron 1979)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, *samples: Sequence[float], figure: Callable[..., float] = statistics.fmean) -> "BootstrapEstimate":
        """A figure of paired samples, one value a seed in each; the mean of one sample by default."""
        draws = random.Random(0)
        rows = list(zip(*samples, strict=True))
        values = sorted(
            figure(*zip(*draws.choices(rows, k=len(rows)), strict=True)) for _ in range(2000 if len(rows) > 1 else 1)
        )
        return cls(
            mean=figure(*samples), low=values[len(values) // 40], high=values[math.ceil(len(values) * 0.975) - 1]
        )


def work_until(replays: Sequence[Replay], yardstick: Yardstick, share: float) -> list[float | None]:
    """Work of each search until it had reached this fraction of the best known hypervolume; `None` if it did not."""
    return [
        next(
            (work for work, reached in zip(found.work, yardstick.shares(found.given), strict=True) if reached >= share),
            None,
        )
        for found in replays
    ]


def ratio_of_means(ones: Sequence[float], others: Sequence[float]) -> float:
    """How many times the others the ones are, on average."""
    return statistics.fmean(ones) / statistics.fmean(others)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What one policy came to, over seeds.

    Attributes:
        policy: as it was asked for.
        share: fraction of the best known hypervolume in the end.
        work: until the fraction that was asked for was reached.
        num_short: seeds that did not reach it; they count with all their budget.
        ratio: of that work's mean to the mean of the first policy's; seeds are drawn in pairs for its interval.
        num_trials: that ended, on average.
        num_stopped: of them, stopped early.
    """

    policy: str
    share: BootstrapEstimate
    work: BootstrapEstimate
    num_short: int
    ratio: BootstrapEstimate
    num_trials: float
    num_stopped: float


def compare(replays: Mapping[str, Sequence[Replay]], yardstick: Yardstick, *, until: float) -> tuple[Comparison, ...]:
    """Compare policies, each replayed with the same seeds.

    Args:
        replays: by policy; the first is what the others are compared to.
        yardstick: what fronts are measured by.
        until: fraction of the best known hypervolume to reach, in (0, 1].
    """
    comparisons: list[Comparison] = []
    first: list[float] = []
    for policy, searches in replays.items():
        reached = work_until(searches, yardstick, until)
        work = [found if found is not None else search.budget for found, search in zip(reached, searches, strict=True)]
        first = first or work
        ends = [deque(yardstick.shares(search.given), maxlen=1) for search in searches]
        comparisons.append(
            Comparison(
                policy=policy,
                share=BootstrapEstimate.of([end[0] if end else 0.0 for end in ends]),
                work=BootstrapEstimate.of(work),
                num_short=reached.count(None),
                ratio=BootstrapEstimate.of(work, first, figure=ratio_of_means),
                num_trials=statistics.fmean(len(search.work) for search in searches),
                num_stopped=statistics.fmean(search.num_stopped for search in searches),
            )
        )
    return tuple(comparisons)
