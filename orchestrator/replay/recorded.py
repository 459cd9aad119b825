"""Recorded trials as a table to replay searches from: what a cascade would have come to."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from orchestrator.front.constraints import Bounds, measured_violations
from orchestrator.policies.looks import BoundLook, Refusal
from orchestrator.searches.curves import CurvePoint, TrialCurve
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.pruning_config import SizeUnit
from trainables.work import FORWARD, TRAINED, asked_level, asking_work

Work = Literal["epochs", "macs"]
Point = Mapping[str, float]
"""Values of metrics by name."""

RECORDED_OBJECTIVES = ("val_accuracy", "macs_kept", "params_kept")
_RECORDED_METRICS = (*RECORDED_OBJECTIVES, "macs", "params")
# Sizes are objectives themselves: a neighbour of another size answers another question.
_SIZE_WEIGHT = 3.0
_NUM_NEIGHBOURS = 3
_AT_SIZE = 0.02  # as near as the engine meets a size


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedEpoch:
    """One epoch of a recorded trial.

    Attributes:
        work: what it cost, in the table's unit.
        reported: accuracy of each level that has begun, as a running trial tells it, and the size that was asked for.
        counted: the levels that would reach the front if the trial were stopped here, as they are here.
    """

    work: float
    reported: tuple[Point, ...]
    counted: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedTrial:
    """A trial to replay.

    Attributes:
        trial: its number where it was recorded.
        num_epochs: that were planned; a failed one has fewer.
        epochs: what was recorded of each.
        results: of its levels, the largest first; none if it failed.
    """

    trial: int
    num_epochs: int
    epochs: tuple[RecordedEpoch, ...]
    results: tuple[Point, ...]


class Recorded:
    """The recorded trials of one search.

    An asked cascade is answered by one of the three nearest recorded ones, drawn at random: accuracies and sizes are
    such as were seen, and which of them is luck, as it is in training. Nearest of those with the same number of levels,
    schedule and everything else that is no number to search over, by Euclidean distance of temperature (in logarithms),
    distillation weight and learning rate (in logarithms), each scaled to the range of the table, and the levels' sizes
    (in logarithms), which weigh three times as much.
    """

    def __init__(
        self,
        curves: Sequence[TrialCurve],
        *,
        objectives: Sequence[str],
        work: Work = "epochs",
        bounds: Bounds = MappingProxyType({}),
    ) -> None:
        """Build the table; trials that were stopped early are left out, as nobody knows how they would have gone on.

        So are those of which epochs are missing, as after a start whose files were lost.

        Args:
            curves: of one search.
            objectives: names out of `RECORDED_OBJECTIVES`.
            work: how an epoch counts: each as one, or by the multiply-accumulates of its levels, in the sizes that
                they have in its end, and of the network that they learn from, as a fraction of those of an epoch in
                which one level of the teacher's size learns from the teacher.
            bounds: by metric; a network that breaks any is on no front.

        Raises:
            InputError: if an objective or a metric with a bound is not recorded, or no trial finished.
        """
        for name in objectives:
            if name not in RECORDED_OBJECTIVES:
                raise InputError(
                    f"objective {name!r} is not in learning curves; there are {', '.join(RECORDED_OBJECTIVES)}"
                )
        for name in bounds:
            if name not in _RECORDED_METRICS:
                raise InputError(
                    f"constraints: {name} must be {bounds[name]}, but is not in learning curves; there are "
                    f"{', '.join(_RECORDED_METRICS)}"
                )
        assert work in get_args(Work)
        self.objectives, self.bounds = tuple(objectives), dict(bounds)
        whole = [curve for curve in curves if _is_whole(curve)]
        self.trials = tuple(_recorded(curve, work) for curve in whole)
        finished = [trial for trial in self.trials if trial.results]
        if not finished:
            raise InputError("no trial of these learning curves finished; let the search run on")
        self.work_per_trial = sum(epoch.work for trial in finished for epoch in trial.epochs) / len(finished)
        self._bound_look = BoundLook(bounds=self.bounds, teacher=_teacher(finished[0].results[0]))
        self._ranges = _ranges([curve.cascade for curve in whole])
        self._cells: dict[str, tuple[list[RecordedTrial], list[np.ndarray]]] = {}
        for curve, trial in zip(whole, self.trials, strict=True):
            trials, places = self._cells.setdefault(_kind(curve.cascade), ([], []))
            trials.append(trial)
            places.append(self._place(curve.cascade))

    def look(self, cascade: CascadeConfig) -> Refusal | None:
        """Refuse a cascade of whose kind nothing is recorded, or that breaks the bounds, as a search refuses those."""
        return self._look_at_kind(cascade) or self._bound_look(cascade)

    def _look_at_kind(self, cascade: CascadeConfig) -> Refusal | None:
        if _kind(cascade) in self._cells:
            return None
        return Refusal(
            reason=f"no recorded trial has {cascade.num_assistants} assistants, schedule {cascade.schedule} and this "
            "recipe and pruning; replay the space and the recipe that were recorded"
        )

    def answer(self, cascade: CascadeConfig, draws: random.Random) -> RecordedTrial:
        """A recorded trial that answers for a cascade.

        Args:
            cascade: what is asked for.
            draws: draws one of the nearest.

        Raises:
            InputError: if none is of its kind.
        """
        refusal = self._look_at_kind(cascade)
        if refusal is not None:
            raise InputError(refusal.reason)
        trials, places = self._cells[_kind(cascade)]
        distances = ((np.array(places) - self._place(cascade)) ** 2).sum(axis=1)
        nearest: list[int] = np.argsort(distances, kind="stable")[:_NUM_NEIGHBOURS].tolist()
        return trials[draws.choice(nearest)]

    def _place(self, cascade: CascadeConfig) -> np.ndarray:
        numbers = _numbers(cascade)
        sizes = [_SIZE_WEIGHT * math.log(size) / self._ranges["size"] for size in cascade.macs_kept]
        return np.array([*sizes, *(value / self._ranges[name] for name, value in numbers.items())])


def violations(bounds: Bounds, point: Point) -> dict[str, float]:
    """How far a recorded network breaks each bound; 0 or below where it is met."""
    found = measured_violations(bounds, point)
    assert found is not None, "a table with bounds on what is not recorded is refused"
    return found


def _teacher(point: Point) -> dict[SizeUnit, float]:
    """The teacher's size in each unit; in that of latency, which has no bound, one."""
    sizes: dict[SizeUnit, float] = {unit: point[unit] / point[f"{unit}_kept"] for unit in ("macs", "params")}
    return sizes | {"latency": 1.0}


def _numbers(cascade: CascadeConfig) -> dict[str, float]:
    return {
        "temperature": math.log(cascade.temperature),
        "distillation_weight": cascade.distillation_weight,
        "learning_rate": math.log(cascade.recipe.learning_rate),
    }


def _ranges(cascades: Sequence[CascadeConfig]) -> dict[str, float]:
    """How far each number to search over reaches in the table; 1 where it does not vary."""
    values: dict[str, list[float]] = {"size": [math.log(cascade.macs_kept[-1]) for cascade in cascades]}
    for cascade in cascades:
        for name, value in _numbers(cascade).items():
            values.setdefault(name, []).append(value)
    return {name: (max(column) - min(column)) or 1.0 for name, column in values.items()}


def _kind(cascade: CascadeConfig) -> str:
    """All of a cascade that is no number to search over."""
    rest = cascade.to_dict()
    for name in ("macs_kept", "temperature", "distillation_weight", "seed"):
        del rest[name]
    if cascade.num_levels == 1:  # with one level to train there is nothing to put in an order
        del rest["schedule"]
    rest["recipe"] = {name: value for name, value in rest["recipe"].items() if name != "learning_rate"}
    return json.dumps([cascade.num_levels, rest], sort_keys=True)


def _is_whole(curve: TrialCurve) -> bool:
    epochs = sorted({point.trial_epoch for point in curve.points})
    gapless = epochs == list(range(1, len(epochs) + 1))
    return gapless and (curve.end == "failed" or (curve.end == "finished" and len(epochs) == curve.cascade.num_epochs))


def _recorded(curve: TrialCurve, work: Work) -> RecordedTrial:
    results = {
        result.level: {name: float(getattr(result, name)) for name in _RECORDED_METRICS} for result in curve.results
    }
    last_epochs = {point.level: point.trial_epoch for point in curve.points}
    sizes = {0: 1.0} | {point.level: point.macs_kept for point in curve.points}
    epochs: list[RecordedEpoch] = []
    reported: dict[int, Point] = {}
    counted: dict[int, Point] = {}
    for number in range(1, max(last_epochs.values()) + 1):
        points = [point for point in curve.points if point.trial_epoch == number]
        for point in points:
            reported[point.level] = {
                "val_accuracy": point.val_accuracy,
                "macs_kept": curve.cascade.macs_kept[point.level - 1],
            }
            result = results.get(point.level)
            if result is None:
                continue
            if number == last_epochs[point.level]:
                counted[point.level] = result
                reported[point.level] = {**reported[point.level], "val_accuracy": result["val_accuracy"]}
            elif abs(point.macs_kept / result["macs_kept"] - 1.0) <= _AT_SIZE:
                counted[point.level] = result | {"val_accuracy": point.val_accuracy}
        epochs.append(
            RecordedEpoch(
                work=1.0 if work == "epochs" else _macs(points, curve.cascade, sizes),
                reported=tuple(reported[level] for level in sorted(reported)),
                counted=tuple(counted[level] for level in sorted(counted)),
            )
        )
    return RecordedTrial(
        trial=curve.trial,
        num_epochs=curve.cascade.num_epochs,
        epochs=tuple(epochs),
        results=tuple(results[level] for level in sorted(results)),
    )


def _macs(points: Sequence[CurvePoint], cascade: CascadeConfig, sizes: Mapping[int, float]) -> float:
    """Work of one epoch.

    Args:
        points: its levels, the largest first.
        cascade: what was trained.
        sizes: of the levels in the end; of the teacher at 0.
    """
    first = points[0]
    larger = sizes[asked_level(cascade, first.level)]
    asking = asking_work(larger, first.epoch, cascade) - asking_work(larger, first.epoch - 1, cascade)
    return (asking + TRAINED * sum(point.macs_kept for point in points)) / (FORWARD + TRAINED)
