"""Dominance, front, hypervolume and knee: pure functions over candidates."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeVar

import moocore
import numpy as np

from orchestrator.front.archive import Candidate
from trainables.errors import InputError

_Item = TypeVar("_Item")
Direction = Literal["maximize", "minimize"]

OBJECTIVES: Mapping[str, Direction] = MappingProxyType(
    {
        "val_accuracy": "maximize",
        "macs_kept": "minimize",
        "params_kept": "minimize",
        "latency_ms": "minimize",
    }
)


def main_cost(objectives: Sequence[str]) -> str:
    """The cost that fronts are shown and sorted by, and that the smallest network is the smallest in.

    Args:
        objectives: names out of `OBJECTIVES`.

    Returns:
        The first of them that is minimised; `macs_kept` where none is.
    """
    return next((name for name in objectives if OBJECTIVES.get(name) == "minimize"), "macs_kept")


def losses(candidate: Candidate, objectives: Sequence[str]) -> tuple[float, ...]:
    """A candidate's objectives, all to be minimised: what is to be maximised is negated.

    Args:
        candidate: the candidate.
        objectives: names out of `OBJECTIVES`.

    Returns:
        One number an objective, in their order.

    Raises:
        InputError: if an objective is unknown, or was not measured for this candidate.
    """
    return tuple(_loss(candidate, name) for name in objectives)


def _loss(candidate: Candidate, name: str) -> float:
    if name not in OBJECTIVES:
        raise InputError(f"objective {name!r} is unknown; known objectives: {', '.join(OBJECTIVES)}")
    value: float | None = getattr(candidate, name)
    if value is None:
        raise InputError(
            f"candidate {candidate.label} has no {name}, but it is an objective; "
            "measure it in every trial or leave it out of the objectives"
        )
    return -value if OBJECTIVES[name] == "maximize" else value


def undominated(items: Iterable[_Item], losses: Callable[[_Item], tuple[float, ...]]) -> list[_Item]:
    """Those items that no other one dominates, sorted by their losses; of equal ones the first.

    Args:
        items: any number of them.
        losses: an item's objectives, all to be minimised, as many of each.
    """
    all_items = list(items)
    if not all_items:
        return []
    points = np.array([losses(item) for item in all_items], dtype=float)
    kept = moocore.is_nondominated(points)
    return [all_items[place] for place in np.lexsort(points.T[::-1]) if kept[place]]


def front(candidates: Iterable[Candidate], objectives: Sequence[str]) -> tuple[Candidate, ...]:
    """The candidates that no other one dominates.

    Of several that are equal in all objectives the one with the smallest (trial, level) stays, so that the front does
    not depend on the order in which candidates were found.

    Args:
        candidates: any number of them.
        objectives: names out of `OBJECTIVES`.

    Returns:
        The front, by rising `main_cost`, the most accurate first where costs tie.

    Raises:
        InputError: as `losses`.
    """
    found = undominated(sorted(candidates, key=_key), lambda candidate: losses(candidate, objectives))
    cost = main_cost(objectives)
    by_cost = sorted(objectives, key=lambda name: (name != cost, OBJECTIVES[name] != "maximize"))
    return tuple(sorted(found, key=lambda candidate: losses(candidate, by_cost)))


def _key(candidate: Candidate) -> tuple[int, int]:
    return candidate.key


def front_hypervolume(
    candidates: Iterable[Candidate], objectives: Sequence[str], *, teacher_latency_ms: float | None = None
) -> float:
    """The volume that candidates dominate, up to the corner of accuracy 0 and the teacher's own cost.

    Args:
        candidates: any number of them; what lies beyond the corner counts nothing.
        objectives: names out of `OBJECTIVES`.
        teacher_latency_ms: the corner's latency, in milliseconds, where `latency_ms` is an objective; then the
            volume is in that unit, else it is in [0, 1].

    Raises:
        InputError: as `losses`, or if the teacher's latency is needed and missing.
    """
    corner = {"val_accuracy": 0.0, "macs_kept": 1.0, "params_kept": 1.0, "latency_ms": teacher_latency_ms}
    points = [losses(candidate, objectives) for candidate in candidates]
    reference = []
    for name in objectives:
        worst = corner[name]
        if worst is None:
            raise InputError(
                f"{name} is an objective, but the teacher's is not known; measure the teacher's {name} too"
            )
        reference.append(worst)
    return hypervolume(points, reference)


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that points dominate, up to a reference point; all coordinates are to be minimised.

    Exact, with up to four coordinates in at most n² steps (HV4D⁺: Guerreiro & Fonseca 2018, "Computing and updating
    hypervolume contributions in up to four dimensions").

    Args:
        points: each of as many coordinates as `reference`; one that is not below the reference in all of them counts
            nothing.
        reference: the worst corner.

    Returns:
        The volume, at least 0.
    """
    found = np.array([*points], dtype=float).reshape(-1, len(reference))
    return float(moocore.hypervolume(found, ref=np.array(reference, dtype=float)))


def knee(candidates: Sequence[Candidate], objectives: Sequence[str]) -> Candidate | None:
    """The candidate of a front after which a further gain in one objective costs the most in the others.

    Objectives are normalised to [0, 1] over the front, costs on a logarithmic axis. The knee is the point farthest
    from the straight line between the front's two ends, on the side of better values (Das 1999, "On characterizing
    the 'knee' of the Pareto curve based on normal-boundary intersection"). For two objectives that is the point with
    the smallest sum of normalised losses, and that sum defines it for more than two as well: the point farthest from
    the plane of equal sums. Of points that tie, such as the two ends when there are only two, the most accurate one
    is the knee, then the one with the smallest (trial, level).

    Args:
        candidates: a front, as `front` gives it.
        objectives: names out of `OBJECTIVES`, those of the front.

    Returns:
        The knee; the only candidate of a front of one; `None` for an empty front.

    Raises:
        InputError: as `losses`.
    """
    if not candidates:
        return None
    columns = [_normalised([_on_axis(candidate, name) for candidate in candidates]) for name in objectives]
    # Rounded, so that the last bit of a sum does not decide between the two ends.
    sums = [round(math.fsum(row), 12) for row in zip(*columns, strict=True)]
    best = min(
        range(len(candidates)), key=lambda index: (sums[index], -candidates[index].val_accuracy, candidates[index].key)
    )
    return candidates[best]


def _on_axis(candidate: Candidate, name: str) -> float:
    loss = _loss(candidate, name)
    return loss if OBJECTIVES[name] == "maximize" else math.log(loss)


def _normalised(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
