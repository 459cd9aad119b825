"""A front with all that is shown of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from orchestrator.front.archive import Candidate
from orchestrator.front.constraints import Bounds, meets
from orchestrator.front.pareto import front, knee, main_cost

_MOST_DRAWN = 5_000  # candidates beside the front


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontView:
    """What is shown of a front.

    Attributes:
        candidates: every candidate found so far.
        front: those that no other one dominates, by rising `cost`.
        knee: the one to take when in doubt; `None` for an empty front.
        teacher_val_accuracy: in [0, 1].
        objectives: names out of `pareto.OBJECTIVES` that the front is of.
        breaking: keys of candidates that break a constraint and are not on the front for that.
        collapsed_below: accuracy below which a network is nearer to guessing than to the teacher.
    """

    candidates: Sequence[Candidate]
    front: Sequence[Candidate]
    knee: Candidate | None
    teacher_val_accuracy: float
    objectives: Sequence[str]
    breaking: frozenset[tuple[int, int]] = frozenset()
    collapsed_below: float = 0.0

    def remarks(self, candidate: Candidate) -> tuple[str, ...]:
        """What a reader should see beside a candidate: that it is the knee, that it has collapsed."""
        return (
            *(("knee",) if self.is_knee(candidate) else ()),
            *(("collapsed",) if self.is_collapsed(candidate) else ()),
        )

    def is_knee(self, candidate: Candidate) -> bool:
        """Whether it is the one to take when in doubt."""
        return self.knee is not None and candidate.key == self.knee.key

    def is_collapsed(self, candidate: Candidate) -> bool:
        """Whether a network is nearer to guessing than to the teacher."""
        return candidate.val_accuracy < self.collapsed_below

    @property
    def cost(self) -> str:
        """The objective on the horizontal axis."""
        return main_cost(self.objectives)

    @property
    def is_curve(self) -> bool:
        """Whether a line joins it in a picture."""
        # With a third objective the front is a surface, and a line through its shadow would say nothing.
        return len(self.objectives) == 2

    @property
    def title(self) -> str:
        """What stands above a picture of it."""
        return f"{len(self.front)} of {len(self.candidates)} networks on the front{self.further_objectives}"

    @property
    def further_objectives(self) -> str:
        """What it is of beside accuracy and the cost that is drawn, as words behind it; nothing where that is all."""
        others = [name for name in self.objectives if name not in ("val_accuracy", self.cost)]
        further = "a further objective" if len(others) == 1 else "further objectives"
        return f", with {' and '.join(others)} as {further}" if others else ""

    @property
    def rest(self) -> str:
        """What those that are not on the front are, and how many of them a picture shows where it leaves some out."""
        what = "dominated, or breaking a constraint" if self.breaking else "dominated"
        number = len(self._off_front)
        return what if number <= _MOST_DRAWN else f"{what} ({_MOST_DRAWN:,} of {number:,})"

    @property
    def dominated(self) -> tuple[Candidate, ...]:
        """The candidates that have this cost and are not on the front; of very many an even part of them."""
        found = self._off_front
        if len(found) <= _MOST_DRAWN:
            return found
        return tuple(found[place] for place in np.linspace(0, len(found) - 1, _MOST_DRAWN).astype(int))

    @property
    def _off_front(self) -> tuple[Candidate, ...]:
        front = {candidate.key for candidate in self.front}
        return tuple(each for each in self.candidates if each.key not in front and getattr(each, self.cost) is not None)

    @property
    def plotted(self) -> tuple[Candidate, ...]:
        """What a picture shows: the front and those that are not on it."""
        return (*self.front, *self.dominated)


def front_view(
    candidates: Sequence[Candidate],
    objectives: Sequence[str],
    *,
    teacher_val_accuracy: float,
    bounds: Bounds = MappingProxyType({}),
    collapsed_below: float = 0.0,
) -> FrontView:
    """The front of those of these candidates that keep to the bounds, with its knee."""
    kept = [candidate for candidate in candidates if meets(bounds, candidate)]
    best = front(kept, objectives)
    return FrontView(
        candidates=tuple(candidates),
        front=best,
        knee=knee(best, objectives),
        teacher_val_accuracy=teacher_val_accuracy,
        objectives=tuple(objectives),
        breaking=frozenset(candidate.key for candidate in candidates) - {candidate.key for candidate in kept},
        collapsed_below=collapsed_below,
    )


def grown(view: FrontView, new: Sequence[Candidate], candidates: Sequence[Candidate], bounds: Bounds) -> FrontView:
    """A view that knows some candidates more: what `front_view` gives for all, without looking at all of them again.

    Args:
        view: of those that were known.
        new: those that were not.
        candidates: all of them.
        bounds: the view's.
    """
    kept = [candidate for candidate in new if meets(bounds, candidate)]
    best = front([*view.front, *kept], view.objectives)
    broken = {candidate.key for candidate in new} - {candidate.key for candidate in kept}
    return replace(
        view,
        candidates=candidates,
        front=best,
        knee=view.knee if best == tuple(view.front) else knee(best, view.objectives),
        breaking=view.breaking | broken,
    )
