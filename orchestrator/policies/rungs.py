"""Which trials are worth going on with, where there is no one metric to tell: multi-objective successive halving.

Asynchronous successive halving (Li et al. 2020, "A system for massively parallel hyperparameter tuning") whose rungs
rank trials by non-dominated sorting, and inside a front by how well they spread over it: Schmucker et al. 2021,
"Multi-objective asynchronous successive halving" (arXiv 2106.12639). A rung lies at a fraction of a trial's own
planned epochs and keeps what each trial reported when it first passed. Nothing here knows Ray, Optuna or a disk.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np

from orchestrator.front.pareto import OBJECTIVES, undominated
from trainables.errors import InputError
from trainables.plain import PlainConfig, require_number

STOPPING_OBJECTIVES = ("val_accuracy", "macs_kept")
"""What is known of a level while it is trained: its accuracy now, and the size that was asked for."""

_ROUNDING = 1e-9  # three times a third of a trial's epochs may not be quite all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping(PlainConfig):
    """When trials are compared, and how many go on.

    Attributes:
        reduction_factor: one in so many trials of a rung goes on, above 1; so much farther on lies the next rung.
        first_rung: fraction of a trial's planned epochs at which the first rung lies, in (0, 1).
    """

    reduction_factor: float = 3.0
    first_rung: float = 0.25

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_number("early_stopping.reduction_factor", self.reduction_factor, above=1.0, at_most=100.0)
        require_number("early_stopping.first_rung", self.first_rung, above=0.0, below=1.0)

    @property
    def fractions(self) -> tuple[float, ...]:
        """Where the rungs lie, as fractions of a trial's planned epochs, rising, all below 1."""
        fractions = [self.first_rung]
        while fractions[-1] * self.reduction_factor < 1.0 - _ROUNDING:
            fractions.append(fractions[-1] * self.reduction_factor)
        return tuple(fractions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Passing:
    """A trial's passing of a rung.

    Attributes:
        trial: its number.
        rung: 0 is the first.
        points: accuracy and cost of each of its levels then, but for those that another one of them dominates.
        goes_on: what was decided.
    """

    trial: int
    rung: int
    points: tuple[tuple[float, float], ...]
    goes_on: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        points = [list(point) for point in self.points]
        return {"trial": self.trial, "rung": self.rung, "points": points, "goes_on": self.goes_on}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        points = tuple((float(accuracy), float(cost)) for accuracy, cost in values["points"])
        return cls(trial=int(values["trial"]), rung=int(values["rung"]), points=points, goes_on=bool(values["goes_on"]))


class Rungs:
    """Decides at each rung whether a trial goes on; the same reports in the same order give the same decisions.

    Of n trials that have passed a rung, those go on that are among the first n / reduction_factor by the front that
    their best level lies on, and inside a front by spread. A trial with a level on the rung's own front always goes
    on, and so does every trial while fewer than reduction_factor have passed.
    """

    def __init__(self, settings: EarlyStopping, *, objectives: Sequence[str], seed: int) -> None:
        """Begin with empty rungs.

        Args:
            settings: when trials are compared, and how many go on.
            objectives: two names out of `pareto.OBJECTIVES`, one of them a cost; a search uses `STOPPING_OBJECTIVES`.
            seed: of the choice from which point of a front the spread is measured.

        Raises:
            InputError: if the objectives are others than that.
        """
        costs = [name for name in objectives if OBJECTIVES.get(name) == "minimize"]
        if len(objectives) != 2 or "val_accuracy" not in objectives or len(costs) != 1:
            raise InputError(
                f"rungs compare val_accuracy and one cost that is known before training, but were given "
                f"[{', '.join(objectives)}]; give [{', '.join(STOPPING_OBJECTIVES)}]"
            )
        self._settings = settings
        self._cost = costs[0]
        self._seed = seed
        self._fractions = settings.fractions
        self._fronts = tuple(_Fronts() for _ in self._fractions)
        self._num_passed = [0] * len(self._fractions)
        self._last: dict[int, Passing] = {}
        self._passings: list[Passing] = []

    @property
    def passings(self) -> Sequence[Passing]:
        """What has been kept, in the order in which it came."""
        return self._passings

    def report(self, trial: int, fraction: float, points: Sequence[Mapping[str, float]]) -> bool:
        """Tell how far a trial is; whether it goes on.

        What a trial reports is kept by the farthest rung that it has come to, if it had not come there before, as
        after going back to a checkpoint. A trial that was stopped stays so.

        Args:
            trial: its number.
            fraction: of its planned epochs that are done, in (0, 1]; a trial that is done is not compared.
            points: values of the objectives of each level that is known so far, at least one.

        Raises:
            InputError: if a value is not finite, or a cost is not above 0.
        """
        last = self._last.get(trial)
        if last is not None and not last.goes_on:
            return False
        rung = bisect_right(self._fractions, fraction + _ROUNDING) - 1
        if fraction >= 1.0 or rung <= (-1 if last is None else last.rung):
            return True
        checked = [self._checked(trial, point) for point in points]
        known = tuple(undominated(checked, lambda point: (point[1], -point[0])))
        rank = min(self._fronts[rung].add(_Point(cost, accuracy, trial)) for accuracy, cost in known)
        self._num_passed[rung] += 1
        goes_on = self._goes_on(rank, rung, trial)
        self._keep(Passing(trial=trial, rung=rung, points=known, goes_on=goes_on))
        return goes_on

    def restore(self, passings: Sequence[Passing]) -> None:
        """Take over what rungs with these settings have kept, in the order in which it came; only into empty ones."""
        points = [
            (cost, -accuracy, passing.trial, passing.rung) for passing in passings for accuracy, cost in passing.points
        ]
        # In this order no point displaces an earlier one.
        for cost, negative, trial, rung in sorted(points):
            self._fronts[rung].add(_Point(cost, -negative, trial))
        for passing in passings:
            self._num_passed[passing.rung] += 1
            self._keep(passing)

    def _keep(self, passing: Passing) -> None:
        self._last[passing.trial] = passing
        self._passings.append(passing)

    def _checked(self, trial: int, point: Mapping[str, float]) -> tuple[float, float]:
        accuracy, cost = float(point["val_accuracy"]), float(point[self._cost])
        require_number(f"val_accuracy of trial {trial}", accuracy, at_least=0.0, at_most=1.0)
        require_number(f"{self._cost} of trial {trial}", cost, above=0.0)
        return accuracy, cost

    def _goes_on(self, rank: int, rung: int, trial: int) -> bool:
        fronts = self._fronts[rung]
        if rank == 0 or self._num_passed[rung] < self._settings.reduction_factor:
            return True
        places = math.ceil(self._num_passed[rung] / self._settings.reduction_factor)
        better: set[int] = set()
        for front in fronts.until(rank):
            better.update(point.trial for point in front)
            if len(better) >= places:
                return False
        tied = [point for point in fronts.at(rank) if point.trial not in better]
        generator = np.random.default_rng([self._seed, rung, trial])
        return trial in _spread(tied, places - len(better), generator)


class _Point(NamedTuple):
    cost: float
    accuracy: float
    trial: int


_COST, _ACCURACY = attrgetter("cost"), attrgetter("accuracy")


class _Fronts:
    """Points of two objectives, sorted into fronts as they come.

    A front is a staircase, by rising cost and rising accuracy. A new point takes the place of what it dominates in
    its front, an unbroken piece of the staircase, which goes on to the next front and does the same there: Li et al.
    2017, "Efficient nondomination level update method for steady-state evolutionary multiobjective optimization".
    """

    def __init__(self) -> None:
        self._fronts: list[list[_Point]] = []

    def add(self, point: _Point) -> int:
        """Sort a point in; the front that it lies on, 0 for the best."""
        # Each point of a front is dominated by one of the front before, so this can be halved.
        first = rank = bisect_left(self._fronts, 1, key=lambda front: int(not _dominated(point, front)))
        moving = [point]
        while moving:
            if rank == len(self._fronts):
                self._fronts.append(moving)
                break
            front = self._fronts[rank]
            start = bisect_left(front, moving[0].cost, key=_COST)
            if start < len(front) and front[start][:2] == moving[0][:2]:  # equal points do not dominate one another
                start = bisect_right(front, moving[0].cost, key=_COST)
            end = bisect_right(front, moving[-1].accuracy, lo=start, key=_ACCURACY)
            displaced = front[start:end]
            front[start:end] = moving
            moving, rank = displaced, rank + 1
        return first

    def until(self, rank: int) -> Iterator[Sequence[_Point]]:
        """The fronts before this one, the best first."""
        return islice(self._fronts, rank)

    def at(self, rank: int) -> Sequence[_Point]:
        """This front's points, in an order that does not depend on the one in which they came."""
        return sorted(self._fronts[rank])


def _dominated(point: _Point, front: Sequence[_Point]) -> bool:
    """Whether a point of the front is at least as good in both and better in one."""
    index = bisect_right(front, point.cost, key=_COST) - 1
    # Of those that cost no more, the dearest is the most accurate.
    return index >= 0 and front[index].accuracy >= point.accuracy and front[index][:2] != point[:2]


def _spread(points: Sequence[_Point], num_trials: int, generator: np.random.Generator) -> set[int]:
    """The trials that cover a front best: each next one has a point that is farthest from all points chosen so far.

    Greedy farthest-point choice (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"), which
    Schmucker et al. 2021 name epsilon-net, from a random trial on; costs in logarithms, both axes scaled to the front.

    Args:
        points: of one front; a trial may have several.
        num_trials: trials to choose.
        generator: draws the first trial.
    """
    owners_P = np.array([point.trial for point in points])
    trials = np.unique(owners_P)
    if num_trials >= len(trials):
        return set(trials.tolist())
    axes_P2 = np.array([[math.log(point.cost), point.accuracy] for point in points])
    axes_P2 /= np.maximum(np.ptp(axes_P2, axis=0), 1e-12)
    distances_P = np.full(len(points), np.inf)
    chosen = {int(generator.choice(trials))}
    newest = next(iter(chosen))
    while len(chosen) < num_trials:
        for point_2 in axes_P2[owners_P == newest]:
            np.minimum(distances_P, ((axes_P2 - point_2) ** 2).sum(axis=1), out=distances_P)
        distances_P[owners_P == newest] = -1.0
        newest = int(owners_P[np.argmax(distances_P)])
        chosen.add(newest)
    return chosen
