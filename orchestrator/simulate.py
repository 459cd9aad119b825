"""Whole searches replayed from recorded learning curves, in virtual time.

The searcher (study, sampler, hand-laid start) and early stopping are those of a real search; only training is looked
up. Workers run side by side as on a cluster: a new cascade is asked for while others are still trained.
"""

import heapq
import itertools
import math
import random
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol

from optuna.storages import InMemoryStorage

from orchestrator.recorded import Point, Recorded, RecordedTrial
from orchestrator.rungs import STOPPING_OBJECTIVES, EarlyStopping, Rungs
from orchestrator.samplers import check_sampler
from orchestrator.study import Asked, Study
from search_spaces.cascade import CascadeDefaults, CascadeSpace, Space
from trainables.errors import InputError

_WORDS = re.compile(r"(?P<sampler>[a-z0-9-]+)(\+start(:(?P<points>\d+))?)?(?P<rungs>\+rungs)?")
DEFAULT_STARTING_POINTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How a search chooses what to train, and for how long.

    Attributes:
        sampler: out of `samplers.SAMPLERS`.
        num_starting_points: hand-laid trials before the sampler takes over.
        early_stopping: whether trials are stopped at rungs, and where those lie.
    """

    sampler: str
    num_starting_points: int = 0
    early_stopping: EarlyStopping | None = None

    @classmethod
    def parse(cls, words: str) -> "Policy":
        """Read `SAMPLER[+start[:N]][+rungs]`, such as `tpe+start:8+rungs`.

        Raises:
            InputError: if it is not of this form, or there is no such sampler.
        """
        match = _WORDS.fullmatch(words)
        if match is None:
            raise InputError(f"policy is {words!r}, but must be SAMPLER[+start[:N]][+rungs], such as tpe+start:6+rungs")
        points = match["points"] or (DEFAULT_STARTING_POINTS if "+start" in words else 0)
        return cls(
            sampler=check_sampler(match["sampler"]),
            num_starting_points=int(points),
            early_stopping=EarlyStopping() if match["rungs"] else None,
        )


class Searcher(Protocol):
    """What is replayed: gives out cascades, and hears what becomes of them."""

    def ask(self) -> Asked:
        """The next trial."""

    def report(self, number: int, fraction: float, points: Sequence[Point]) -> bool:
        """A trial has done this fraction of its work; whether it goes on."""

    def finished(self, number: int, result: Point) -> None:
        """A trial came to its end, its student with this result."""

    def stopped(self, number: int) -> None:
        """A trial was stopped as `report` said."""

    def failed(self, number: int) -> None:
        """A trial failed."""


class OwnSearcher:
    """The searcher of this project, its study in memory."""

    def __init__(
        self, policy: Policy, space: Space, defaults: CascadeDefaults, *, objectives: Sequence[str], seed: int
    ) -> None:
        """Begin a search.

        Raises:
            InputError: if a hand-laid start is asked for in a space that is a function of the user's own.
        """
        self._space, self._defaults = space, defaults
        self._objectives = tuple(objectives)
        self._study = Study(InMemoryStorage(), objectives=objectives, seed=seed, sampler=policy.sampler)
        if policy.num_starting_points:
            if not isinstance(space, CascadeSpace):
                raise InputError("a hand-laid start is known of spaces given as ranges alone; leave +start out")
            self._study.enqueue(space.starting_points(policy.num_starting_points))
        self._rungs = None
        if policy.early_stopping is not None:
            self._rungs = Rungs(policy.early_stopping, objectives=STOPPING_OBJECTIVES, seed=seed)

    def ask(self) -> Asked:
        """The next trial."""
        return self._study.ask(self._space, self._defaults)

    def report(self, number: int, fraction: float, points: Sequence[Point]) -> bool:
        """A trial has done this fraction of its work; whether it goes on."""
        return self._rungs is None or self._rungs.report(number, fraction, points)

    def finished(self, number: int, result: Point) -> None:
        """A trial came to its end."""
        self._study.tell(number, [result[name] for name in self._objectives])

    def stopped(self, number: int) -> None:
        """A trial was stopped."""
        self._study.stop(number, "rungs")

    def failed(self, number: int) -> None:
        """A trial failed."""
        self._study.fail(number, "recorded as failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """One replayed search.

    Attributes:
        trace: work spent, all workers together, and fraction of the best known hypervolume, at each gain.
        budget: work after which it ended.
        num_trials: trials that ended.
        num_stopped: of them, those that were stopped early.
    """

    trace: tuple[tuple[float, float], ...]
    budget: float
    num_trials: int
    num_stopped: int

    @property
    def share(self) -> float:
        """Fraction of the best known hypervolume in the end."""
        return self.trace[-1][1] if self.trace else 0.0

    def work_until(self, share: float) -> float | None:
        """Work until this fraction of the best known hypervolume was reached; `None` if it was not."""
        return next((work for work, reached in self.trace if reached >= share), None)


@dataclass(kw_only=True, slots=True)
class _Running:
    number: int
    trial: RecordedTrial
    num_done: int = 0


class _Clock:
    """The workers' virtual time: the next epoch to end is the next thing to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, _Running]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._events)

    def train(self, running: _Running) -> None:
        work = running.trial.epochs[running.num_done].work
        heapq.heappush(self._events, (self.now + work, next(self._order), running))

    def wait(self) -> _Running:
        self.now, _, running = heapq.heappop(self._events)
        return running


def replay(searcher: Searcher, recorded: Recorded, *, num_workers: int, budget: float) -> Replay:
    """Run one search on recorded trials.

    Args:
        searcher: a new one.
        recorded: the table.
        num_workers: trials at the same time; an epoch lasts as long as it costs work.
        budget: work to spend, in the table's unit; what is still running then is dropped.

    Raises:
        InputError: if a cascade is asked for of whose kind nothing is recorded.
    """
    clock, front = _Clock(), recorded.front()
    trace: list[tuple[float, float]] = []
    spent, num_trials, num_stopped = 0.0, 0, 0
    while spent < budget:
        while len(clock) < num_workers:
            asked = searcher.ask()
            clock.train(_Running(number=asked.number, trial=recorded.nearest(asked.cascade)))
        running = clock.wait()
        epoch = running.trial.epochs[running.num_done]
        running.num_done += 1
        spent += epoch.work
        if running.num_done == len(running.trial.epochs):
            _end(searcher, running)
            given: Sequence[Point] = running.trial.results
        elif searcher.report(running.number, running.num_done / running.trial.num_epochs, epoch.reported):
            clock.train(running)
            continue
        else:
            searcher.stopped(running.number)
            given = epoch.counted
            num_stopped += 1
        num_trials += 1
        before = front.share
        front.add(given)
        if front.share > before:
            trace.append((spent, front.share))
    return Replay(trace=tuple(trace), budget=budget, num_trials=num_trials, num_stopped=num_stopped)


def _end(searcher: Searcher, running: _Running) -> None:
    if running.trial.results:
        searcher.finished(running.number, running.trial.results[-1])
    else:
        searcher.failed(running.number)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval (percentile bootstrap, Efron 1979)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, *samples: Sequence[float], figure: Callable[..., float] = statistics.fmean) -> "Estimate":
        """A figure of paired samples, one value a seed in each; the mean of one sample by default."""
        draws = random.Random(0)
        rows = list(zip(*samples, strict=True))
        values = sorted(
            figure(*zip(*draws.choices(rows, k=len(rows)), strict=True)) for _ in range(2000 if len(rows) > 1 else 1)
        )
        return cls(
            mean=figure(*samples), low=values[len(values) // 40], high=values[math.ceil(len(values) * 0.975) - 1]
        )


def work_until(replays: Sequence[Replay], share: float) -> list[float]:
    """Work of each search until this fraction was reached; one that did not reach it counts with all its budget."""
    return [found if (found := replay.work_until(share)) is not None else replay.budget for replay in replays]


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
        ratio: of that work to the first policy's, seed by seed.
        num_trials: that ended, on average.
        num_stopped: of them, stopped early.
    """

    policy: str
    share: Estimate
    work: Estimate
    num_short: int
    ratio: Estimate
    num_trials: float
    num_stopped: float


def compare(replays: Mapping[str, Sequence[Replay]], *, until: float) -> tuple[Comparison, ...]:
    """Compare policies, each replayed with the same seeds.

    Args:
        replays: by policy; the first is what the others are compared to.
        until: fraction of the best known hypervolume to reach, in (0, 1].
    """
    first = work_until(next(iter(replays.values())), until)
    comparisons = []
    for policy, found in replays.items():
        work = work_until(found, until)
        comparisons.append(
            Comparison(
                policy=policy,
                share=Estimate.of([replay.share for replay in found]),
                work=Estimate.of(work),
                num_short=sum(replay.work_until(until) is None for replay in found),
                ratio=Estimate.of(work, first, figure=ratio_of_means),
                num_trials=statistics.fmean(replay.num_trials for replay in found),
                num_stopped=statistics.fmean(replay.num_stopped for replay in found),
            )
        )
    return tuple(comparisons)


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """Replays of one experiment's space; may travel to another process.

    Attributes:
        space: what is searched.
        defaults: what the space builds on.
        recorded: the table.
        num_workers: trials at the same time.
        budget: work a search may spend.
    """

    space: Space
    defaults: CascadeDefaults
    recorded: Recorded
    num_workers: int
    budget: float

    def run(self, policy: Policy, seed: int) -> Replay:
        """Replay one search."""
        objectives = self.recorded.objectives
        searcher = OwnSearcher(policy, self.space, self.defaults, objectives=objectives, seed=seed)
        return replay(searcher, self.recorded, num_workers=self.num_workers, budget=self.budget)

    def run_all(self, policies: Sequence[str], *, num_seeds: int, num_processes: int) -> dict[str, list[Replay]]:
        """Replay each policy with each seed, 0 … num_seeds − 1.

        Raises:
            InputError: if a policy is not one, or asks for what was not recorded.
        """
        parsed = {words: Policy.parse(words) for words in policies}
        tasks = [(policy, seed) for policy in parsed.values() for seed in range(num_seeds)]
        if num_processes == 1:
            replays = [self.run(*task) for task in tasks]
        else:
            # Fresh processes: a fork would copy threads of libraries in whatever state they are.
            with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
                replays = list(pool.map(self.run, *zip(*tasks, strict=True)))
        return {words: replays[index * num_seeds : (index + 1) * num_seeds] for index, words in enumerate(parsed)}
