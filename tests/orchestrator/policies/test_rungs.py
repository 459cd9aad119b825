"""Rungs keep the front, say the same after a restart, and rank as a naive sort does."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.rungs import STOPPING_OBJECTIVES, EarlyStopping, Passing, Rungs
from trainables.errors import InputError

ONE_RUNG = EarlyStopping(reduction_factor=3, first_rung=0.5)


def rungs(settings=ONE_RUNG, seed=0):
    return Rungs(settings, objectives=STOPPING_OBJECTIVES, seed=seed)


def stored_and_read(policy, settings):
    again = rungs(settings)
    again.restore([Passing.from_dict(json.loads(json.dumps(passing.to_dict()))) for passing in policy.passings])
    return again


def levels(*points):
    return [{"val_accuracy": accuracy, "macs_kept": cost} for accuracy, cost in points]


def dominates(a, b):
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def undominated(points):
    return [p for p in points if not any(dominates(other, p) for other in points)]


def naive_ranks(points):
    """Fronts by peeling: the points that no other one left dominates are the next front."""
    ranks, left, rank = {}, set(points), 0
    while left:
        peeled = {point for point in left if not any(dominates(other, point) for other in left)}
        ranks |= dict.fromkeys(peeled, rank)
        left, rank = left - peeled, rank + 1
    return ranks


# Few distinct values, so that points tie and are equal.
point = st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(1, 6).map(lambda n: n / 6))
trial_points = st.lists(point, min_size=1, max_size=3)
many_trials = st.lists(trial_points, min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("first", "factor", "fractions"),
    [(1 / 9, 3, [1 / 9, 1 / 3]), (0.25, 3, [0.25, 0.75]), (0.25, 2, [0.25, 0.5]), (0.5, 4, [0.5])],
)
def test_rungs_lie_at_fractions_of_the_work(first, factor, fractions):
    settings = EarlyStopping(reduction_factor=factor, first_rung=first)
    assert settings.fractions == pytest.approx(fractions)


@given(many_trials)
def test_decisions_are_those_of_a_naive_sort(trials):
    policy = rungs()
    for number, points in enumerate(trials):
        goes_on = policy.report(number, 0.5, levels(*points))
        seen = [undominated(each) for each in trials[: number + 1]]
        ranks = naive_ranks([p for each in seen for p in each])
        best = [min(ranks[p] for p in each) for each in seen]
        better, tied = sum(b < best[-1] for b in best), best.count(best[-1])
        if best[-1] == 0 or len(seen) < 3 or better + tied <= math.ceil(len(seen) / 3):
            assert goes_on
        elif better >= math.ceil(len(seen) / 3):
            assert not goes_on


@given(many_trials, trial_points)
def test_a_newcomer_that_dominates_a_whole_rung_is_never_stopped(trials, others):
    policy = rungs()
    for number, points in enumerate(trials):
        policy.report(number, 0.5, levels(*points))
    everything = [p for each in trials for p in each]
    best = (max(accuracy for accuracy, _ in everything), min(cost for _, cost in everything) / 2)
    assert policy.report(len(trials), 0.5, levels(*others, best))


@given(many_trials)
def test_a_trial_with_a_level_on_the_front_is_never_stopped(trials):
    policy = rungs()
    for number, points in enumerate(trials):
        goes_on = policy.report(number, 0.5, levels(*points))
        seen = [p for each in trials[: number + 1] for p in each]
        if any(not any(dominates(other, p) for other in seen) for p in points):
            assert goes_on


@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.2, 0.3, 0.6, 0.8, 1.0]), trial_points), max_size=40))
def test_rungs_that_were_stored_and_read_decide_as_those_that_were_not(reports):
    settings = EarlyStopping(reduction_factor=2, first_rung=0.25)
    whole, restored = rungs(settings), rungs(settings)
    for trial, fraction, points in reports:
        restored = stored_and_read(restored, settings)
        assert restored.report(trial, fraction, levels(*points)) == whole.report(trial, fraction, levels(*points))
    assert restored.passings == whole.passings


def test_fewer_trials_than_the_reduction_factor_go_on():
    policy = rungs()
    assert [policy.report(n, 0.5, levels((0.9 - n / 10, 0.1 + n / 10))) for n in range(3)] == [True, True, False]


def test_the_best_third_by_rank_goes_on():
    policy = rungs()
    for number in range(5):  # each behind all before it
        policy.report(number, 0.5, levels((0.9 - number / 10, 0.1 + number / 10)))
    assert policy.report(5, 0.5, levels((0.85, 0.15)))  # second of six
    assert not policy.report(6, 0.5, levels((0.79, 0.21)))  # fourth of seven


def test_a_trial_is_as_good_as_its_best_level():
    policy = rungs()
    for number in range(6):
        policy.report(number, 0.5, levels((0.9 - number / 100, 0.1 + number / 100)))
    assert not policy.report(6, 0.5, levels((0.5, 0.5), (0.4, 0.3)))
    assert policy.report(7, 0.5, levels((0.5, 0.5), (0.91, 0.1)))


def test_inside_a_front_the_gap_is_filled_first():
    def last_of(newcomer, seed):
        policy = rungs(EarlyStopping(reduction_factor=2, first_rung=0.5), seed=seed)
        policy.report(0, 0.5, levels((1.0, 0.01)))  # the front
        crowd = [(0.5 + n / 1000, 0.1 + n / 1000) for n in range(7)]
        for number, place in enumerate([*crowd, (0.9, 0.9)], start=1):
            policy.report(number, 0.5, levels(place))
        return policy.report(9, 0.5, levels(newcomer))

    assert all(last_of((0.7, 0.3), seed) for seed in range(20))
    assert not all(last_of((0.5035, 0.1035), seed) for seed in range(20))


def test_what_was_passed_is_not_counted_again_and_a_stopped_trial_stays_so():
    policy = rungs(EarlyStopping(reduction_factor=2, first_rung=0.25))
    assert policy.report(0, 0.3, levels((0.9, 0.1)))
    assert not policy.report(1, 0.3, levels((0.8, 0.2)))
    before = list(policy.passings)
    # Both went back to a checkpoint.
    assert policy.report(0, 0.25, levels((0.1, 0.9)))
    assert policy.report(0, 0.4, levels((0.1, 0.9)))
    assert not policy.report(1, 0.25, levels((1.0, 0.01)))
    assert not policy.report(1, 0.5, levels((1.0, 0.01)))
    assert policy.passings == before


def test_a_leap_counts_at_the_farthest_rung_and_a_finished_trial_at_none():
    policy = rungs(EarlyStopping(reduction_factor=2, first_rung=0.25))
    assert policy.report(0, 0.6, levels((0.9, 0.1)))
    assert policy.report(0, 0.7, levels((0.9, 0.1)))
    assert policy.report(1, 1.0, levels((0.1, 0.9)))
    assert policy.report(2, 0.1, levels((0.1, 0.9)))
    assert [(passing.trial, passing.rung) for passing in policy.passings] == [(0, 1)]


def test_a_fraction_a_rounding_below_its_rung_has_come_to_it():
    policy = rungs(EarlyStopping(reduction_factor=3, first_rung=1 / 9))
    policy.report(0, 1 / 3, levels((0.9, 0.1)))
    assert [passing.rung for passing in policy.passings] == [1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reduction_factor": 1}, r"reduction_factor is 1, but must be a number above 1"),
        ({"reduction_factor": math.nan}, r"reduction_factor is nan"),
        ({"first_rung": 0}, r"first_rung is 0, but must be a number above 0 and below 1"),
        ({"first_rung": 1.0}, r"first_rung is 1\.0"),
        ({"first_rung": "early"}, r"first_rung is 'early'"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        EarlyStopping(**values)


@pytest.mark.parametrize("objectives", [("val_accuracy",), ("macs_kept", "params_kept"), ("val_accuracy",) * 2])
def test_other_objectives_are_refused(objectives):
    with pytest.raises(InputError, match=r"rungs compare val_accuracy and one cost"):
        Rungs(ONE_RUNG, objectives=objectives, seed=0)


@pytest.mark.parametrize("bad", [(math.nan, 0.1), (1.5, 0.1), (0.9, 0.0), (0.9, math.inf)])
def test_values_that_cannot_be_are_refused_and_not_kept(bad):
    policy = rungs()
    with pytest.raises(InputError, match=r"of trial 0 is"):
        policy.report(0, 0.5, levels((0.5, 0.5), bad))
    assert policy.passings == []
    assert policy.report(0, 0.5, levels((0.5, 0.5)))


def test_settings_are_plain_and_frozen():
    assert EarlyStopping.from_dict(EarlyStopping(first_rung=0.1).to_dict()) == EarlyStopping(first_rung=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        EarlyStopping().first_rung = 0.5
