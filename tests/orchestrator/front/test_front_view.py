import random
from functools import partial

import pytest

from orchestrator.front.constraints import Bound
from orchestrator.front.front_view import front_view, grown

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
