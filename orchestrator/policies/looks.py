"""Cheap looks at a cascade before anything of it is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.front.constraints import Bounds, size_violations
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.pruning_config import UNITS, Pruning, SizeUnit


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a cascade is not worth a trial.

    Attributes:
        reason: for people to read.
        constraint: name of what it breaks, for the sampler, where there is a measure of how far.
        violation: how far, as a fraction of the bound, above 0.
    """

    reason: str
    constraint: str | None = None
    violation: float = 0.0


Look = Callable[[CascadeConfig], Refusal | None]


def admit(cascade: CascadeConfig) -> None:
    """The look that refuses nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitLook:
    """Refuses cascades whose sizes are counted in what was not measured.

    Attributes:
        teacher: its size in each unit that was.
    """

    teacher: Mapping[SizeUnit, float]

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """Look at the unit."""
        unit = cascade.pruning.size_in
        if unit in self.teacher:
            return None
        return Refusal(
            reason=f"pruning.size_in is {unit!r}, but layers are timed only where cascade.pruning.size_in says so; set "
            "it there, and not in the space alone"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeLook:
    """Refuses cascades whose student is smaller than channels can make it.

    Attributes:
        smallest_kept: the smallest size that can be asked for with this pruning.
    """

    smallest_kept: Callable[[Pruning], float]

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """Look at the smallest level; the others are larger."""
        smallest, asked = self.smallest_kept(cascade.pruning), cascade.macs_kept[-1]
        if asked >= smallest:
            return None
        return Refusal(
            reason=f"macs_kept of level {cascade.num_levels} is {asked:.4g}, but must be at least {smallest:.4g}, as "
            f"every channel group is at its floor there; ask for a larger size{or_relax(cascade.pruning)}",
            constraint="smallest_macs_kept",
            violation=smallest / asked - 1,
        )


def or_relax(pruning: Pruning) -> str:
    """The other mend of a size that is too small: the settings that hold channels beyond one a group, if any do."""
    holding = {
        f"min_channels ({pruning.min_channels})": pruning.min_channels > pruning.round_to,  # else that is as much
        f"round_to ({pruning.round_to})": pruning.round_to > 1,
        "floors": any(floor > 1 for floor in pruning.floors.values()),
        "keep": bool(pruning.keep),
    }
    holders = [f"cascade.pruning.{setting}" for setting, holds in holding.items() if holds]
    return f", or relax {' or '.join(holders)}" if holders else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class GapLook:
    """Refuses cascades with a size that lies between those which whole channels give.

    Attributes:
        nearest_kept: the size next to one that is asked for with this pruning, where that cannot be met; else `None`.
    """

    nearest_kept: Callable[[Pruning, float], float | None]

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """Look at every level."""
        for level, asked in enumerate(cascade.macs_kept, start=1):
            nearest = self.nearest_kept(cascade.pruning, asked)
            if nearest is not None:
                return Refusal(
                    reason=f"macs_kept of level {level} is {asked:.4g}, but whole channels come no nearer than "
                    f"{nearest:.4g}, as there are few of them; ask for that"
                )
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningLook:
    """Refuses cascades that learn what the network does not have, or remember too much of what it says.

    Attributes:
        require_room: raises an `InputError` if what a cascade remembers (`teacher_views`) is too much.
        require_features: raises one if there are no features to learn.
    """

    require_room: Callable[[CascadeConfig], None]
    require_features: Callable[[], object]

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """Look at what is learnt, which the user's own space may choose."""
        try:
            self.require_room(cascade)
            if cascade.feature_weight > 0.0:
                self.require_features()
        except InputError as error:
            return Refusal(reason=str(error))
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundLook:
    """Refuses cascades of which no level can meet the constraints, by the sizes that are asked for.

    Attributes:
        bounds: by metric.
        teacher: its size in each unit.
    """

    bounds: Bounds
    teacher: Mapping[SizeUnit, float]

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """Look at every level."""
        unit = cascade.pruning.size_in
        found = [
            size_violations(self.bounds, size, unit=unit, teacher=self.teacher[unit]) for size in cascade.macs_kept
        ]
        if any(max(level.values(), default=0.0) <= 0 for level in found):
            return None
        student = found[-1]  # what the sampler is told of finished trials is the student's, too
        name = max(student, key=lambda metric: student[metric])
        sizes = ", ".join(f"{size:.4g}" for size in cascade.macs_kept)
        return Refusal(
            reason=f"constraints: {name} must be {self.bounds[name]}, but no level is that keeps {sizes} of the "
            f"teacher's {UNITS[unit]}; widen the constraint or space.student_macs_kept",
            constraint=name,
            violation=student[name],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachLook:
    """Refuses cascades whose constraints lie beyond any network of theirs, in units that sizes are not asked for in.

    How many parameters a level of so many MACs has shows only when its channels are chosen; but none has less than
    all channel groups at their floors leave, and none more than the teacher.

    Attributes:
        bounds: by metric.
        smallest: size in a unit with each group at the floor of a pruning.
        teacher: its size in each unit.
    """

    bounds: Bounds
    smallest: Callable[[Pruning, SizeUnit], float]
    teacher: Mapping[SizeUnit, float]

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """Look at the smallest and the largest network that there can be."""
        for unit, teacher in self.teacher.items():
            names = self.bounds.keys() & {unit, f"{unit}_kept"}
            if unit == cascade.pruning.size_in or not names:
                continue
            smallest = self.smallest(cascade.pruning, unit)
            for name in sorted(names):
                whole = 1.0 if name.endswith("_kept") else teacher
                least, bound = whole * smallest / teacher, self.bounds[name]
                if bound.at_most is not None and bound.at_most < least:
                    what = f"with every channel group at its floor {smallest:,.0f} {UNITS[unit]} are left"
                    return self._refuse(name, bound.violation(least), what)
                if bound.at_least is not None and bound.at_least > whole:
                    return self._refuse(name, bound.violation(whole), f"the teacher has {teacher:,.0f} {UNITS[unit]}")
        return None

    def _refuse(self, name: str, violation: float, what: str) -> Refusal:
        reason = f"constraints: {name} must be {self.bounds[name]}, but {what}; widen the constraint"
        return Refusal(reason=reason, constraint=name, violation=violation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """Several looks, one after the other.

    Attributes:
        looks: the cheapest first.
    """

    looks: tuple[Look, ...]

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """The first refusal."""
        return next((refusal for look in self.looks if (refusal := look(cascade)) is not None), None)
