"""Choices of a space that no cascade can have; who gave them should know before the search begins."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.experiment.config import Experiment
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.config import Schedule
from trainables.errors import InputError


def dead_notes(experiment: Experiment) -> Iterator[str]:
    """Name what draws would be dropped for: a choice of `nested`, a schedule, or so many assistants with one."""
    space, defaults = experiment.find_space(), experiment.cascade
    if not isinstance(space, CascadeSpace):
        return
    fewest, most = space.num_assistants
    alive = []
    for nested in space.nested or (defaults.pruning.nested,):
        reasons = [_reason(space, defaults, schedule, fewest, nested=nested) for schedule in space.schedule]
        if None in reasons:
            alive.append(nested)
        else:
            yield f"space.nested has {str(nested).lower()}, but no cascade can have it: {reasons[0]}"
    for schedule in space.schedule if alive else ():
        reasons = [_reason(space, defaults, schedule, number, nested=alive[0]) for number in range(fewest, most + 1)]
        possible = [number for number, reason in enumerate(reasons, start=fewest) if reason is None]
        if not possible:
            yield f"space.schedule has {schedule}, but no cascade can have it: {reasons[0]}"
        elif possible[-1] < most:
            yield (
                f"space.num_assistants goes up to {most}, but {schedule} cascades can have at most {possible[-1]}: "
                f"{reasons[-1]}"
            )


def _reason(
    space: CascadeSpace, defaults: CascadeDefaults, schedule: Schedule, num_assistants: int, *, nested: bool
) -> str | None:
    """Why there is no cascade of such settings; `None` if there is one."""
    levels = num_assistants + 1
    sizes = tuple(space.student_macs_kept[0] ** (level / levels) for level in range(1, levels + 1))
    try:
        defaults.cascade(macs_kept=sizes, schedule=schedule, pruning=replace(defaults.pruning, nested=nested))
    except InputError as error:
        return str(error)
    return None
