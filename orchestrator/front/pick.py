"""Choose one candidate out of a front, or by its name."""

import re
from collections.abc import Sequence

from orchestrator.front import pareto
from orchestrator.front.archive import Candidate
from trainables.errors import InputError

WAYS_TO_PICK = ("knee", "smallest", "most-accurate")
WHOLE_FRONT = "front"

_LABEL = re.compile(r"([0-9]+):([0-9]+)")
_ROUNDING = 1e-9  # accuracies are quotients, and their differences round


def pick(
    front: Sequence[Candidate],
    everything: Sequence[Candidate],
    how: str,
    *,
    teacher_val_accuracy: float,
    objectives: Sequence[str],
    max_drop: float | None,
) -> Candidate:
    """Choose the candidate to export.

    Args:
        front: as `pareto.front` gives it.
        everything: all candidates of the archive.
        how: `knee`, `smallest` (in the first objective that is a cost), `most-accurate`: all of the front; or
            `TRIAL:LEVEL`, any candidate at all.
        teacher_val_accuracy: top-1 of the teacher on the validation images, in [0, 1].
        objectives: those of the front.
        max_drop: how far the validation accuracy may lie below the teacher's, in [0, 1]; `None` for any distance.

    Raises:
        InputError: if nothing fits, saying what there is.
    """
    candidates = front if how in WAYS_TO_PICK else (_labelled(everything, how),)
    fitting = _fitting(candidates, everything, teacher_val_accuracy=teacher_val_accuracy, max_drop=max_drop)
    if how == "knee":
        chosen = pareto.knee(fitting, objectives)
        assert chosen is not None
        return chosen
    cost = next((name for name in objectives if pareto.OBJECTIVES.get(name) == "minimize"), "macs_kept")
    order = (cost, "val_accuracy") if how == "smallest" else ("val_accuracy", cost)
    return min(fitting, key=lambda candidate: (pareto.losses(candidate, order), candidate.key))


def pick_each(
    front: Sequence[Candidate],
    everything: Sequence[Candidate],
    *,
    teacher_val_accuracy: float,
    objectives: Sequence[str],
) -> dict[str, Candidate]:
    """What each way chooses of a front, by its name; nothing of an empty one. The arguments are those of `pick`."""
    if not front:
        return {}
    return {
        how: pick(
            front,
            everything,
            how,
            teacher_val_accuracy=teacher_val_accuracy,
            objectives=objectives,
            max_drop=None,
        )
        for how in WAYS_TO_PICK
    }


def pick_front(
    front: Sequence[Candidate], everything: Sequence[Candidate], *, teacher_val_accuracy: float, max_drop: float | None
) -> tuple[Candidate, ...]:
    """All members of a front that do not lose too much accuracy; the arguments are those of `pick`.

    Raises:
        InputError: if there is none, saying what there is.
    """
    return tuple(_fitting(front, everything, teacher_val_accuracy=teacher_val_accuracy, max_drop=max_drop))


def _fitting(
    candidates: Sequence[Candidate],
    everything: Sequence[Candidate],
    *,
    teacher_val_accuracy: float,
    max_drop: float | None,
) -> list[Candidate]:
    if max_drop is not None and not 0.0 <= max_drop <= 1.0:
        raise InputError(f"max_drop is {max_drop!r}, but must be in [0, 1]; 0.01 is one point of accuracy")
    if not candidates and everything:
        raise InputError("the front is empty, as no candidate meets the constraints; name one as TRIAL:LEVEL")
    if not candidates:
        raise InputError("the search has no candidate to export yet; let a trial finish first")
    floor = 0.0 if max_drop is None else teacher_val_accuracy - max_drop
    fitting = [candidate for candidate in candidates if candidate.val_accuracy >= floor - _ROUNDING]
    if not fitting:
        best = max(candidates, key=lambda candidate: candidate.val_accuracy)
        raise InputError(
            f"max_drop is {max_drop:g}, so val_accuracy must be at least {floor:.4f} (the teacher's is "
            f"{teacher_val_accuracy:.4f}), but the best to be had is {best.val_accuracy:.4f}, of {best.label}; "
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
