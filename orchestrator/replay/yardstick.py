"""How good a front is, held against the best of what was recorded."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from orchestrator.front.pareto import OBJECTIVES, hypervolume, undominated
from orchestrator.replay.recorded import Point, Recorded, violations
from trainables.errors import InputError

Corner = Literal["teacher", "front"]
_BEYOND = 0.1


class Yardstick:
    """How good a front is: its hypervolume as a fraction of that of all recorded results, costs in logarithms.

    Measured from the corner `teacher`, its cost and no accuracy at all, a front is good when it reaches far down in
    cost; that is the corner of `pareto.front_hypervolume`. From the corner `front`, a tenth beyond the worst values of
    the best known front, small differences in accuracy decide (Ishibuchi et al. 2018, "How to specify a reference
    point in hypervolume calculation for fair performance comparison").
    """

    def __init__(self, recorded: Recorded, corner: Corner = "teacher") -> None:
        """Measure the best known front.

        Args:
            recorded: the table.
            corner: where hypervolume is measured from.

        Raises:
            InputError: if no recorded network meets the bounds, or the best known front dominates nothing from there.
        """
        assert corner in get_args(Corner)
        self._objectives, self._bounds = recorded.objectives, recorded.bounds
        known = self._non_dominated(point for trial in recorded.trials for point in trial.results)
        if not known:
            rules = ", ".join(f"{name} {bound}" for name, bound in self._bounds.items())
            raise InputError(
                f"constraints: no recorded network meets {rules}, so policies have no front to be held against; record "
                "more trials, or a search with wider constraints"
            )
        if corner == "teacher":
            self._reference = tuple(0.0 for _ in self._objectives)  # accuracy 0, and the logarithm of all of the cost
        else:
            columns = list(zip(*known, strict=True))
            self._reference = tuple(max(column) + _BEYOND * (max(column) - min(column)) for column in columns)
        self._best = hypervolume(known, self._reference)
        if self._best <= 0.0:
            raise InputError(
                f"--corner is {corner!r}, but from there the front of what was recorded spans nothing"
                + ("; give --corner teacher" if corner == "front" else ": no trial has learnt anything")
            )

    def shares(self, groups: Iterable[Sequence[Point]]) -> Iterator[float]:
        """The fraction, in [0, 1], after each group of points that is found."""
        found: list[tuple[float, ...]] = []
        share = 0.0
        for group in groups:
            if group:
                found = self._non_dominated(group, found)
                share = hypervolume(found, self._reference) / self._best
            yield share

    def _non_dominated(
        self, points: Iterable[Point], known: Iterable[tuple[float, ...]] = ()
    ) -> list[tuple[float, ...]]:
        kept = (point for point in points if max(violations(self._bounds, point).values(), default=0.0) <= 0.0)
        return undominated([*known, *map(self._place, kept)], lambda place: place)

    def _place(self, point: Point) -> tuple[float, ...]:
        """Objectives to be minimised, costs in logarithms."""
        return tuple(
            -point[name] if OBJECTIVES[name] == "maximize" else math.log(point[name]) for name in self._objectives
        )
