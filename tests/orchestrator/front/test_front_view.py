import random
from dataclasses import replace
from functools import partial

import pytest

from orchestrator.front.constraints import Bound
from orchestrator.front.front_view import FrontView, front_view, grown
from orchestrator.front.pick import pick

OBJECTIVES = ("val_accuracy", "macs_kept")


@pytest.mark.parametrize("bounds", [{}, {"macs_kept": Bound(at_most=0.4)}])
@pytest.mark.parametrize("seed", range(20))
def test_a_view_that_has_grown_is_that_of_all(make_candidate, bounds, seed):
    luck = random.Random(seed)
    found = [
        make_candidate(trial=number, val_accuracy=luck.randint(1, 5) / 10, macs_kept=luck.randint(1, 5) / 10)
        for number in range(luck.randint(1, 30))
    ]
    place = luck.randint(0, len(found))
    of = partial(front_view, objectives=OBJECTIVES, teacher_val_accuracy=0.95, bounds=bounds)
    assert grown(of(tuple(found[:place])), found[place:], tuple(found), bounds) == of(tuple(found))


@pytest.mark.parametrize(
    ("num_off", "num_on", "num_drawn", "rest"),
    [
        (9, 1, 9, "dominated"),
        (10, 1, 10, "dominated"),
        (10, 30, 10, "dominated"),  # a front that is large itself leaves none out
        (11, 1, 10, "dominated (10 of 11)"),
        (1999, 3, 10, "dominated (10 of 1,999)"),
    ],
)
def test_of_very_many_dominated_candidates_as_many_are_drawn_as_is_said(
    make_candidate, monkeypatch, num_off, num_on, num_drawn, rest
):
    monkeypatch.setattr("orchestrator.front.front_view._MOST_DRAWN", 10)
    on = [make_candidate(trial=i, val_accuracy=0.5 + i / 100, macs_kept=0.1 + i / 100) for i in range(num_on)]
    off = [make_candidate(trial=num_on + i, val_accuracy=0.1, macs_kept=0.9) for i in range(num_off)]
    view = front_view((*on, *off), OBJECTIVES, teacher_val_accuracy=0.95)
    assert len(view.front) == num_on
    assert (len({candidate.key for candidate in view.dominated}), view.rest) == (num_drawn, rest)
    assert {off[0], off[-1]} <= set(view.dominated)


def test_of_very_many_candidates_a_part_is_drawn_and_the_front_whole(make_candidate, monkeypatch):
    monkeypatch.setattr("orchestrator.front.front_view._MOST_DRAWN", 10)
    best = [make_candidate(trial=number, val_accuracy=0.9, macs_kept=0.1) for number in (3, 77)]
    others = [make_candidate(trial=number, val_accuracy=0.5, macs_kept=0.5) for number in range(4, 77)]
    found = sorted([*best, *others], key=lambda candidate: candidate.key)
    view = FrontView(
        candidates=found, front=best, knee=None, teacher_val_accuracy=0.95, objectives=("val_accuracy", "macs_kept")
    )
    assert 5 <= len(view.dominated) <= 10
    assert set(best) <= set(view.plotted)
    assert view.rest == "dominated (10 of 73)"


@pytest.mark.parametrize(
    ("objectives", "cost", "cheapest"),
    [
        (("val_accuracy", "macs_kept"), "macs_kept", 0),
        (("val_accuracy", "latency_ms", "macs_kept"), "latency_ms", 1),
        (("latency_ms", "val_accuracy", "macs_kept"), "latency_ms", 1),
        (("val_accuracy", "macs_kept", "latency_ms"), "macs_kept", 0),
        (("params_kept", "latency_ms", "val_accuracy"), "params_kept", 2),
    ],
)
def test_axis_order_and_the_smallest_go_by_the_first_cost(make_candidate, objectives, cost, cheapest):
    costs = ({"macs_kept": 0.1}, {"latency_ms": 1.0}, {"params_kept": 0.1}, {"val_accuracy": 0.95})
    dear = {"macs_kept": 0.5, "params_kept": 0.5, "latency_ms": 5.0, "val_accuracy": 0.8}
    candidates = [make_candidate(trial=number, **(dear | own)) for number, own in enumerate(costs)]
    view = front_view(candidates, objectives, teacher_val_accuracy=0.95)
    assert view.cost == cost
    assert view.front[0].trial == cheapest
    assert pick(view, "smallest").trial == cheapest


@pytest.mark.parametrize(
    ("below", "has_knee", "remarks"),
    [
        (None, True, [("knee",), ()]),
        (None, False, [(), ()]),
        (0.5, True, [("knee",), ()]),  # what is as accurate has not collapsed
        (0.5001, True, [("knee",), ("collapsed",)]),
        (0.9001, False, [("collapsed",), ("collapsed",)]),
    ],
)
def test_the_knee_is_one_and_what_lies_below_has_collapsed(make_candidate, below, has_knee, remarks):
    candidates = [make_candidate(trial=0, val_accuracy=0.9), make_candidate(trial=1, val_accuracy=0.5, macs_kept=0.09)]
    limit = {} if below is None else {"collapsed_below": below}
    view = front_view(candidates, OBJECTIVES, teacher_val_accuracy=0.95, **limit)
    assert view.knee == candidates[0]
    view = view if has_knee else replace(view, knee=None)
    assert [view.remarks(candidate) for candidate in candidates] == remarks
