"""Fronts are measured against the best of what was recorded."""

import math

import pytest

from orchestrator.front.constraints import Bound
from orchestrator.replay.recorded import Recorded
from orchestrator.replay.yardstick import Yardstick
from trainables.errors import InputError

OBJECTIVES = ("val_accuracy", "macs_kept")


def test_the_best_front_of_the_table_is_all(make_curve):
    one, other = make_curve(0, accuracies=(0.9, 0.8)), make_curve(1, sizes=(0.5, 0.01), accuracies=(0.85, 0.6))
    recorded = Recorded([one, other], objectives=OBJECTIVES)
    groups = [(), recorded.trials[0].results, (), recorded.trials[1].results, recorded.trials[1].results]
    # Steps of the staircase over the logarithm of the cost: from 0.01 to 0.1, from there to 0.5, and on to 1.
    steps = [math.log(10), math.log(5), math.log(2)]
    found = 0.8 * steps[1] + 0.9 * steps[2]
    share = pytest.approx(found / (found + 0.6 * steps[0]))
    assert list(Yardstick(recorded, "teacher").shares(groups)) == [0.0, share, share, 1.0, 1.0]


def test_from_the_corner_of_the_front_its_ends_count_a_tenth(make_curve):
    one, other = make_curve(0, accuracies=(0.9, 0.8)), make_curve(1, sizes=(0.5, 0.01), accuracies=(0.85, 0.6))
    recorded = Recorded([one, other], objectives=OBJECTIVES)
    steps = [math.log(10), math.log(5), 0.1 * math.log(50)]
    worst = 0.6 - 0.1 * 0.3
    heights = [0.6 - worst, 0.8 - worst, 0.9 - worst]
    found = heights[1] * steps[1] + heights[2] * steps[2]
    (share,) = Yardstick(recorded, "front").shares([recorded.trials[0].results])
    assert share == pytest.approx(found / (found + heights[0] * steps[0]))


def test_a_front_of_one_is_no_yardstick_from_its_own_corner(make_curve):
    recorded = Recorded([make_curve(sizes=(0.5, 0.1), accuracies=(0.7, 0.8))], objectives=OBJECTIVES)
    assert list(Yardstick(recorded, "teacher").shares([recorded.trials[0].results])) == [1.0]
    with pytest.raises(InputError, match=r"--corner is 'front', but from there .* spans nothing; give --corner"):
        Yardstick(recorded, "front")


def test_what_breaks_a_bound_is_no_part_of_the_best_front_and_counts_nothing(make_curve):
    one, other = make_curve(0, accuracies=(0.9, 0.8)), make_curve(1, sizes=(0.5, 0.01), accuracies=(0.85, 0.6))
    bounds = {"val_accuracy": Bound(at_least=0.82)}  # which both students break
    recorded = Recorded([one, other], objectives=OBJECTIVES, bounds=bounds)
    first, second = (trial.results for trial in recorded.trials)
    share = pytest.approx(0.85 / 0.9)
    assert list(Yardstick(recorded).shares([first[1:], second, first])) == [0.0, share, 1.0]


@pytest.mark.parametrize("corner", ["teacher", "front"])
def test_bounds_that_nothing_meets_leave_no_front(make_curve, corner):
    recorded = Recorded([make_curve()], objectives=OBJECTIVES, bounds={"val_accuracy": Bound(at_least=0.99)})
    with pytest.raises(InputError, match=r"constraints: no recorded network meets val_accuracy at least 0\.99, so"):
        Yardstick(recorded, corner)
