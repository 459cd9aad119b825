"""Dominance, fronts, hypervolumes and knees against definitions written out in the test."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.front.archive import Candidate
from orchestrator.front.pareto import OBJECTIVES, front, front_hypervolume, hypervolume, knee, losses
from trainables.errors import InputError

TWO = ("val_accuracy", "macs_kept")
ALL = tuple(OBJECTIVES)


def candidate(
    key: tuple[int, int],
    val_accuracy: float,
    macs_kept: float,
    params_kept: float = 0.5,
    latency_ms: float | None = None,
) -> Candidate:
    return Candidate(
        trial=key[0],
        level=key[1],
        num_assistants=0,
        val_accuracy=val_accuracy,
        val_accuracy_before_recalibration=val_accuracy,
        macs=1,
        macs_kept=macs_kept,
        params=1,
        params_kept=params_kept,
        latency_ms=latency_ms,
        network="",
        cascade="{}",
    )


# Few different values, so that ties and duplicates come up often.
_steps = st.integers(1, 8).map(lambda step: step / 8)
_populations = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(1, 3)), st.tuples(_steps, _steps, _steps, _steps), max_size=14
).map(lambda drawn: [candidate(key, *values) for key, values in drawn.items()])
_objectives = st.sampled_from([TWO, ("params_kept", "val_accuracy"), ("val_accuracy", "macs_kept", "latency_ms"), ALL])


def dominates(a: Candidate, b: Candidate, objectives: tuple) -> bool:
    """Whether `a` is at least as good in every objective and better in one."""
    losses_a, losses_b = losses(a, objectives), losses(b, objectives)
    return losses_a != losses_b and all(x <= y for x, y in zip(losses_a, losses_b, strict=True))


@given(_populations, _objectives)
def test_front_is_what_nothing_dominates_with_one_of_each_tie(population: list[Candidate], objectives: tuple) -> None:
    found = front(population, objectives)
    undominated = [c for c in population if not any(dominates(other, c, objectives) for other in population)]
    smallest_key = {
        losses(c, objectives): c for c in sorted(undominated, key=lambda c: (c.trial, c.level), reverse=True)
    }
    assert set(found) == set(smallest_key.values())
    assert not any(dominates(a, b, objectives) for a, b in itertools.permutations(found, 2))


@given(_populations, _objectives, st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order_of_insertion(
    population: list[Candidate], objectives: tuple, random
) -> None:
    shuffled = random.sample(population, len(population))
    assert front(shuffled, objectives) == front(population, objectives)


def test_where_its_cost_ties_the_most_accurate_of_a_front_comes_first() -> None:
    points = [candidate((0, 1), 0.6, 0.1, latency_ms=1.0), candidate((1, 1), 0.9, 0.3, latency_ms=1.0)]
    found = front(points, ("val_accuracy", "latency_ms", "macs_kept"))
    assert [one.label for one in found] == ["1:1", "0:1"]


def test_front_rises_in_cost() -> None:
    points = [candidate((0, 1), 0.99, 0.5), candidate((1, 1), 0.7, 0.01), candidate((2, 1), 0.9, 0.1)]
    assert [c.trial for c in front(points, TWO)] == [1, 2, 0]
    assert [c.trial for c in front(points, tuple(reversed(TWO)))] == [1, 2, 0]


def _grid_volume(points: list[tuple[int, ...]], reference: tuple[int, ...]) -> int:
    cells = itertools.product(*(range(worst) for worst in reference))
    return sum(any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in points) for cell in cells)


@given(st.integers(1, 4).flatmap(lambda d: st.lists(st.tuples(*[st.integers(0, 6)] * d), min_size=1, max_size=8)))
def test_hypervolume_counts_the_dominated_cells_of_a_grid(points: list[tuple[int, ...]]) -> None:
    reference = (5,) * len(points[0])
    assert hypervolume(points, reference) == _grid_volume(points, reference)


@given(_populations, _populations, st.sampled_from([TWO, ("val_accuracy", "macs_kept", "params_kept")]))
def test_hypervolume_never_falls_when_candidates_are_added(
    old: list[Candidate], new: list[Candidate], objectives: tuple
) -> None:
    before, after = front_hypervolume(old, objectives), front_hypervolume(old + new, objectives)
    assert 0.0 <= before <= after + 1e-12
    assert after <= 1.0


def test_hypervolume_of_nothing_is_zero() -> None:
    assert hypervolume([], (1.0, 1.0)) == 0.0
    assert hypervolume([(1.0, 0.0)], (1.0, 1.0)) == 0.0
    assert front_hypervolume([], TWO) == 0.0


def test_latency_needs_the_teacher_to_be_measured() -> None:
    measured = candidate((0, 1), 0.5, 0.5, latency_ms=2.0)
    assert front_hypervolume([measured], ("val_accuracy", "latency_ms"), teacher_latency_ms=6.0) == 0.5 * 4.0
    with pytest.raises(InputError, match=r"latency_ms is an objective, but the teacher's is not known"):
        front_hypervolume([measured], ("val_accuracy", "latency_ms"))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("flops", r"objective 'flops' is unknown; known objectives: val_accuracy"),
        ("latency_ms", r"0:1 has no latency_ms"),
    ],
)
def test_objectives_that_cannot_be_read_are_named(objective: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        front([candidate((0, 1), 0.5, 0.5)], ("val_accuracy", objective))


def test_knee_of_none_one_and_two() -> None:
    cheap, accurate = candidate((0, 1), 0.6, 0.01), candidate((1, 1), 0.9, 0.3)
    assert knee((), TWO) is None
    assert knee((cheap,), TWO) == cheap
    assert knee((cheap, accurate), TWO) == accurate


def test_knee_is_the_corner_of_a_bent_front() -> None:
    # On the logarithmic axis 0.04 lies in the middle; on a linear one it would be next to the cheap end.
    bend = [
        candidate((i, 1), a, m) for i, (a, m) in enumerate([(0.50, 0.01), (0.80, 0.02), (0.96, 0.04), (0.99, 0.32)])
    ]
    assert knee(bend, TWO) == bend[2]


@given(_populations, _objectives)
def test_knee_is_farthest_from_the_line_or_plane_of_the_ends(population: list[Candidate], objectives: tuple) -> None:
    found = front(population, objectives)
    chosen = knee(found, objectives)
    if chosen is None:
        assert not population
        return
    assert chosen in found
    if len(objectives) == 2 and len(found) > 2:
        cost = next(name for name in objectives if name != "val_accuracy")
        points = [(math.log(getattr(c, cost)), c.val_accuracy) for c in found]
        (x0, y0), (x1, y1) = points[0], points[-1]
        # Signed distance to the line of the ends, by the cross product, in normalised coordinates.
        distances = [((y - y0) / (y1 - y0)) - ((x - x0) / (x1 - x0)) for x, y in points]
        assert distances[found.index(chosen)] == pytest.approx(max(distances))
