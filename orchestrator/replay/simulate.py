"""Whole searches replayed from recorded learning curves, in virtual time.

The searcher (study, sampler, hand-laid start) and early stopping are those of a real search; only training is looked
up. Workers run side by side as on a cluster: a new cascade is asked for while others are still trained.
"""

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from optuna.storages import InMemoryStorage

from orchestrator.front.constraints import Bounds
from orchestrator.policies.looks import Look, admit
from orchestrator.policies.rungs import STOPPING_OBJECTIVES, Rungs
from orchestrator.pool import process_pool
from orchestrator.replay.policy import Policy
from orchestrator.replay.recorded import Point, Recorded, RecordedTrial, violations
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import SpaceExhausted, Study
from orchestrator.searches.asked import Asked
from search_spaces.cascade import CascadeDefaults, CascadeSpace, Space
from trainables.errors import InputError

_ROUNDING = 1e-9  # of sums of work, which is in fractions


class Searcher(Protocol):
    """What is replayed: gives out cascades, and hears what becomes of them."""

    def ask(self) -> Asked:
        """The next trial.

        Raises:
            SpaceExhausted: if there is none.
        """

    def report(self, number: int, fraction: float, points: Sequence[Point]) -> bool:
        """A trial has done this fraction of its epochs; whether it goes on."""

    def finished(self, number: int, result: Point) -> None:
        """A trial came to its end, its student with this result."""

    def stopped(self, number: int) -> None:
        """A trial was stopped as `report` said."""

    def failed(self, number: int) -> None:
        """A trial failed."""


class OwnSearcher:
    """The searcher of this project, its study in memory."""

    def __init__(  # noqa: PLR0913
        self,
        policy: Policy,
        space: Space,
        defaults: CascadeDefaults,
        *,
        objectives: Sequence[str],
        seed: int,
        look: Look = admit,
        bounds: Bounds = MappingProxyType({}),
    ) -> None:
        """Begin a search.

        Args:
            policy: how it chooses.
            space: what it searches.
            defaults: what the space builds on.
            objectives: names out of `pareto.OBJECTIVES`.
            seed: of sampler and rungs.
            look: refuses what cannot be run.
            bounds: on the student, by metric.

        Raises:
            InputError: if a hand-laid start is asked for in a space that is a function of the user's own.
        """
        self._space, self._defaults, self._look = space, defaults, look
        self._objectives, self._bounds = tuple(objectives), bounds
        self._study = Study(
            StudyAddress(place=InMemoryStorage(), objectives=objectives), seed=seed, sampler=policy.sampler
        )
        if policy.num_starting_points:
            if not isinstance(space, CascadeSpace):
                raise InputError("a hand-laid start is known of spaces given as ranges alone; leave +start out")
            self._study.enqueue(space.starting_points(policy.num_starting_points, defaults))
        self._rungs = None
        if policy.early_stopping is not None:
            self._rungs = Rungs(policy.early_stopping, objectives=STOPPING_OBJECTIVES, seed=seed)

    def ask(self) -> Asked:
        """The next trial."""
        return self._study.ask(self._space, self._defaults, self._look)

    def report(self, number: int, fraction: float, points: Sequence[Point]) -> bool:
        """A trial has done this fraction of its epochs; whether it goes on."""
        return self._rungs is None or self._rungs.report(number, fraction, points)

    def finished(self, number: int, result: Point) -> None:
        """A trial came to its end."""
        values = [result[name] for name in self._objectives]
        self._study.tell(number, values, constraints=violations(self._bounds, result))

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
        work: spent when each trial ended, all workers together.
        given: what each of them gave.
        num_stopped: trials that were stopped early.
        budget: work that it might spend.
    """

    work: tuple[float, ...]
    given: tuple[tuple[Point, ...], ...]
    num_stopped: int
    budget: float


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


def replay(searcher: Searcher, recorded: Recorded, *, num_workers: int, budget: float, seed: int) -> Replay:
    """Run one search on recorded trials.

    Args:
        searcher: a new one.
        recorded: the table.
        num_workers: trials at the same time; an epoch lasts as long as it costs work.
        budget: work to spend, in the table's unit, unless the space is exhausted before; an epoch that would end beyond
            it, and what else is still running then, is dropped.
        seed: of the table's answers.

    Raises:
        InputError: if a cascade is asked for of whose kind nothing is recorded.
    """
    clock, draws = _Clock(), random.Random(seed)
    work: list[float] = []
    given: list[tuple[Point, ...]] = []
    spent, num_stopped = 0.0, 0
    while spent < budget:
        try:
            while len(clock) < num_workers:
                asked = searcher.ask()
                clock.train(_Running(number=asked.number, trial=recorded.answer(asked.cascade, draws)))
        except SpaceExhausted:
            if not clock:
                break
        running = clock.wait()
        epoch = running.trial.epochs[running.num_done]
        if spent + epoch.work > budget * (1.0 + _ROUNDING):
            break
        running.num_done += 1
        spent += epoch.work
        if running.num_done == len(running.trial.epochs):
            _end(searcher, running)
            given.append(running.trial.results)
        elif searcher.report(running.number, running.num_done / running.trial.num_epochs, epoch.reported):
            clock.train(running)
            continue
        else:
            searcher.stopped(running.number)
            given.append(epoch.counted)
            num_stopped += 1
        work.append(spent)
    return Replay(work=tuple(work), given=tuple(given), num_stopped=num_stopped, budget=budget)


def _end(searcher: Searcher, running: _Running) -> None:
    if running.trial.results:
        searcher.finished(running.number, running.trial.results[-1])
    else:
        searcher.failed(running.number)


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
        searcher = OwnSearcher(
            policy,
            self.space,
            self.defaults,
            objectives=self.recorded.objectives,
            seed=seed,
            look=self.recorded.look,
            bounds=self.recorded.bounds,
        )
        return replay(searcher, self.recorded, num_workers=self.num_workers, budget=self.budget, seed=seed)

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
            with process_pool(num_processes) as pool:
                replays = list(pool.map(self.run, *zip(*tasks, strict=True)))
        return {words: replays[index * num_seeds : (index + 1) * num_seeds] for index, words in enumerate(parsed)}
