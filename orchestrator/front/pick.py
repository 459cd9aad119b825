"""Choose one candidate out of a front, or by its name."""

import re
from collections.abc import Sequence

from orchestrator.front import pareto
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from trainables.errors import InputError

WAYS_TO_PICK = ("knee", "smallest", "most-accurate")
WHOLE_FRONT = "front"

_LABEL = re.compile(r"([0-9]+):([0-9]+)")
_ROUNDING = 1e-9  # accuracies are quotients, and their differences round


def pick(view: FrontView, how: str, *, max_drop: float | None = None) -> Candidate:
    """Choose the candidate to export.

    Args:
        view: the front, and all candidates.
        how: `knee`, `smallest` (in the `pareto.main_cost`), `most-accurate`: all of the front; or
            `TRIAL:LEVEL`, any candidate at all.
        max_drop: how far the validation accuracy may lie below the teacher's, in [0, 1]; `None` for any distance.

    Raises:
        InputError: if nothing fits, saying what there is.
    """
    candidates = view.front if how in WAYS_TO_PICK else (_labelled(view.candidates, how),)
    fitting = _fitting(candidates, view, max_drop)
    if how == "knee":
        chosen = pareto.knee(fitting, view.objectives)
        assert chosen is not None
        return chosen
    order = (view.cost, "val_accuracy") if how == "smallest" else ("val_accuracy", view.cost)
    return min(fitting, key=lambda candidate: (pareto.losses(candidate, order), candidate.key))


def pick_all(view: FrontView, ways: Sequence[str], *, max_drop: float | None = None) -> tuple[Candidate, ...]:
    """What any of these ways chooses, or all members of the front for `front`, each candidate once; as `pick` does.

    Raises:
        InputError: if nothing fits one of them, saying what there is.
    """
    chosen: dict[tuple[int, int], Candidate] = {}
    for how in ways:
        found = pick_front(view, max_drop=max_drop) if how == WHOLE_FRONT else (pick(view, how, max_drop=max_drop),)
        chosen |= {candidate.key: candidate for candidate in found}
    return tuple(chosen.values())


def pick_each(view: FrontView) -> dict[str, Candidate]:
    """What each way chooses of a front, by its name; nothing of an empty one."""
    return {how: pick(view, how) for how in WAYS_TO_PICK} if view.front else {}


def pick_front(view: FrontView, *, max_drop: float | None = None) -> tuple[Candidate, ...]:
    """All members of a front that do not lose too much accuracy; the arguments are those of `pick`.

    Raises:
        InputError: if there is none, saying what there is.
    """
    return tuple(_fitting(view.front, view, max_drop))


def _fitting(candidates: Sequence[Candidate], view: FrontView, max_drop: float | None) -> list[Candidate]:
    if max_drop is not None and not 0.0 <= max_drop <= 1.0:
        raise InputError(f"max_drop is {max_drop!r}, but must be in [0, 1]; 0.01 is one point of accuracy")
    if not candidates and view.candidates:
        raise InputError("the front is empty, as no candidate meets the constraints; name one as TRIAL:LEVEL")
    if not candidates:
        raise InputError("the search has no candidate to export yet; let a trial finish first")
    floor = 0.0 if max_drop is None else view.teacher_val_accuracy - max_drop
    fitting = [candidate for candidate in candidates if candidate.val_accuracy >= floor - _ROUNDING]
    if not fitting:
        best = max(candidates, key=lambda candidate: candidate.val_accuracy)
        raise InputError(
            f"max_drop is {max_drop:g}, so val_accuracy must be at least {floor:.4f} (the teacher's is "
            f"{view.teacher_val_accuracy:.4f}), but the best to be had is {best.val_accuracy:.4f}, of {best.label}; "
            "allow a larger drop or search on"
        )
    return fitting


def _labelled(everything: Sequence[Candidate], label: str) -> Candidate:
    match = _LABEL.fullmatch(label)
    if match is None:
        raise InputError(
            f"the candidate is {label!r}, but must be one of {', '.join(WAYS_TO_PICK)}, "
            f"{WHOLE_FRONT} or TRIAL:LEVEL, as in 3:1"
        )
    trial, level = int(match[1]), int(match[2])
    levels = {candidate.level: candidate for candidate in everything if candidate.trial == trial}
    if not levels:
        trials = ", ".join(map(str, sorted({candidate.trial for candidate in everything}))) or "none"
        raise InputError(f"trial {trial} has no candidate; trials that have some: {trials}")
    if level not in levels:
        raise InputError(f"trial {trial} has no level {level}; its levels: {', '.join(map(str, sorted(levels)))}")
    return levels[level]
