"""What the pictures of a front have in common: colours, the axis of costs, and whose label comes first."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.words import percent

GREY, BLUE, RED, BLACK = "#868c93", "#1f5fbf", "#d1495b", "#3c4043"
"""Of what is not on the front, of the front, of its knee, and of the teacher."""
AXIS_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "macs_kept": "MACs kept, of the teacher's",
        "params_kept": "parameters kept, of the teacher's",
        "latency_ms": "latency, ms an image",
    }
)
ACCURACY_TITLE = "validation accuracy"
# Steps of a decade, the sparsest first; over the narrowest axis, which spans a factor of 2.25, the last gives three.
_STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
_FEWEST_TICKS = 3
_MARGIN = 1.5  # beyond the costs at either end of the axis


def axis_ticks(cost: str, costs: Sequence[float]) -> dict[float, str]:
    """Positions 1, 2, 5, 10 … over the costs and one step beyond, with their labels; closer ones for a short axis."""
    labels = _labels(cost, _STEPS[0])
    if not costs:
        return labels
    low, high = axis_range(costs)
    for steps in _STEPS:
        labels = _labels(cost, steps)
        if sum(low <= tick <= high for tick in labels) >= _FEWEST_TICKS:
            break
    return {tick: text for tick, text in labels.items() if min(costs) / 2.5 <= tick <= max(costs) * 2.5} or labels


def axis_range(costs: Sequence[float]) -> tuple[float, float]:
    """Where the axis of these costs begins and ends.

    Args:
        costs: one at least, above 0.
    """
    return min(costs) / _MARGIN, max(costs) * _MARGIN


def _labels(cost: str, steps: Sequence[float]) -> dict[float, str]:
    ticks = [float(f"{step}e{power}") for power in range(-4, 5) for step in steps]
    if cost == "latency_ms":
        return {tick: f"{tick:g}" for tick in ticks}
    return {tick: f"{100 * tick:g} %" for tick in ticks if tick <= 1}


def coordinates(view: FrontView, candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    """Where candidates lie: their costs and their accuracies."""
    costs = [float(getattr(candidate, view.cost)) for candidate in candidates]
    return costs, [candidate.val_accuracy for candidate in candidates]


def knee_first(view: FrontView) -> list[Candidate]:
    """The front in the order in which labels, trial:level, take the room that there is."""
    return sorted(view.front, key=lambda candidate: not view.is_knee(candidate))


def teacher_label(view: FrontView) -> str:
    """What a legend calls the line at the teacher's accuracy."""
    return f"teacher, {percent(view.teacher_val_accuracy)}"
