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
