"""What candidates must keep to: bounds on what is measured of them, for the front, the sampler and the first look."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.words import counted
from trainables.errors import InputError, did_you_mean
from trainables.plain import PlainConfig, require_number
from trainables.pruning_config import SizeUnit

if TYPE_CHECKING:
    from orchestrator.front.archive import Candidate

_FRACTIONS = ("val_accuracy", "macs_kept", "params_kept")
METRICS = (*_FRACTIONS, "macs", "params", "latency_ms")
"""What may be bounded: fields of `archive.Candidate`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound(PlainConfig):
    """Ends of what a metric may be, both included.

    Attributes:
        at_most: the largest value; any where it is left out.
        at_least: the smallest value; any where it is left out.
    """

    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        """Check that something is bounded and something is left.

        Raises:
            InputError: naming the rule and the value.
        """
        if self.at_most is None and self.at_least is None:
            raise InputError("neither at_most nor at_least is given; give one of them")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise InputError(f"at_least is {self.at_least:g}, but must not be above at_most, {self.at_most:g}")

    def violation(self, value: float) -> float:
        """How far a value lies outside, as a fraction of the bound; 0 or below where it is met."""
        over = [] if self.at_most is None else [(value - self.at_most) / (self.at_most or 1.0)]
        under = [] if self.at_least is None else [(self.at_least - value) / (self.at_least or 1.0)]
        return max(over + under)

    def __str__(self) -> str:
        """The rule in words."""
        ends = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {end:g}" for word, end in ends if end is not None)


Bounds = Mapping[str, Bound]
"""Bounds by metric; none at all where it is empty."""


def check_bounds(bounds: Bounds) -> None:
    """Check names and ranges.

    Raises:
        InputError: naming the metric, the rule and the value.
    """
    for name, bound in bounds.items():
        if name not in METRICS:
            raise InputError(f"{name!r} cannot be constrained; {did_you_mean(name, METRICS)}")
        for end in ("at_most", "at_least"):
            value = getattr(bound, end)
            if value is not None:
                most = 1.0 if name in _FRACTIONS else None
                require_number(f"{name}.{end}", value, at_least=0.0, at_most=most)


def violations(bounds: Bounds, candidate: "Candidate") -> dict[str, float]:
    """How far a candidate breaks each bound, as `Bound.violation` says.

    Raises:
        InputError: if a metric was not measured.
    """
    found = measured_violations(bounds, measured(candidate))
    if found is None:
        name = next(name for name in bounds if getattr(candidate, name) is None)
        raise InputError(f"candidate {candidate.label} has no {name}, but it is constrained; measure it")
    return found


def measured(candidate: "Candidate") -> dict[str, float]:
    """What was measured of a candidate, by metric."""
    return {name: value for name in METRICS if (value := getattr(candidate, name)) is not None}


def measured_violations(bounds: Bounds, values: Mapping[str, float]) -> dict[str, float] | None:
    """How far measured values break each bound; `None` if one that it takes is missing."""
    if not bounds.keys() <= values.keys():
        return None
    return {name: bound.violation(values[name]) for name, bound in bounds.items()}


def meets(bounds: Bounds, candidate: "Candidate") -> bool:
    """Tell whether a candidate keeps to all bounds; errors as of `violations`."""
    return all(violation <= 0 for violation in violations(bounds, candidate).values())


def size_violations(bounds: Bounds, size: float, *, unit: SizeUnit, teacher: float) -> dict[str, float]:
    """How far a size breaks each bound that is known before training.

    Args:
        bounds: of any metrics.
        size: that is asked for, as a fraction of the teacher's.
        unit: what it is counted in.
        teacher: its size.
    """
    values = {f"{unit}_kept": size, unit: size * teacher}
    return {name: bounds[name].violation(value) for name, value in values.items() if name in bounds}


def unmet(bounds: Bounds, candidates: Sequence["Candidate"]) -> str | None:
    """What no candidate has met, for people to read; `None` if some candidate meets all bounds."""
    if not bounds or not candidates or any(meets(bounds, candidate) for candidate in candidates):
        return None
    trials = counted(len({candidate.trial for candidate in candidates}), "trial")
    missed = [f"{name} {bounds[name]} (the nearest has {value:.4g})" for name, value in _missed(bounds, candidates)]
    what = ", ".join(missed) or "all constraints at once, though each is met by some"
    return f"no candidate of {trials} meets {what}; so the front is empty"


def _missed(bounds: Bounds, candidates: Sequence["Candidate"]) -> Iterable[tuple[str, float]]:
    for name, bound in bounds.items():
        values = [getattr(candidate, name) for candidate in candidates]
        nearest = min(values, key=bound.violation)
        if bound.violation(nearest) > 0:
            yield name, nearest
