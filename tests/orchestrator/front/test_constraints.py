import re

import pytest

from orchestrator.front.constraints import (
    Bound,
    check_bounds,
    measured_violations,
    meets,
    size_violations,
    unmet,
    violations,
)
from trainables.errors import InputError


@pytest.mark.parametrize(
    ("bound", "value", "violation"),
    [
        (Bound(at_most=10), 15, 0.5),
        (Bound(at_most=10), 10, 0.0),
        (Bound(at_most=10), 5, -0.5),
        (Bound(at_least=0.8), 0.6, 0.25),
        (Bound(at_least=0.8), 0.8, 0.0),
        (Bound(at_least=2, at_most=4), 5, 0.25),
        (Bound(at_least=2, at_most=4), 1, 0.5),
        (Bound(at_least=2, at_most=4), 3, -0.25),
        (Bound(at_most=0), 3, 3.0),
        (Bound(at_least=0), 3, -3.0),
        (Bound(at_least=2, at_most=2), 2, 0.0),
    ],
)
def test_violations_are_fractions_of_the_bound(bound, value, violation):
    assert bound.violation(value) == pytest.approx(violation)


@pytest.mark.parametrize(
    ("bounds", "refusal"),
    [
        ({"macs_kept": Bound(at_least=0.0, at_most=1.0)}, None),
        ({"macs_kept": Bound(at_most=1.001)}, "macs_kept.at_most is 1.001"),
        ({"val_accuracy": Bound(at_least=-0.001)}, "val_accuracy.at_least is -0.001"),
        ({"macs": Bound(at_most=2.0)}, None),
        ({"latency_ms": Bound(at_least=-1.0, at_most=2.0)}, "latency_ms.at_least is -1.0"),
        ({"flops": Bound(at_most=1.0)}, "'flops' cannot be constrained"),
    ],
)
def test_bounds_lie_where_their_metrics_do(bounds, refusal):
    if refusal is None:
        check_bounds(bounds)
    else:
        with pytest.raises(InputError, match=re.escape(refusal)):
            check_bounds(bounds)


@pytest.mark.parametrize(
    ("ends", "refusal"),
    [
        ({}, "neither at_most nor at_least is given"),
        ({"at_least": 0.5, "at_most": 0.4999}, "at_least is 0.5, but must not be above at_most, 0.4999"),
    ],
)
def test_a_bound_bounds_something_and_leaves_something(ends, refusal):
    with pytest.raises(InputError, match=refusal):
        Bound(**ends)


def test_a_candidate_keeps_to_all_bounds_or_breaks_them(make_candidate):
    candidate = make_candidate(val_accuracy=0.9, macs_kept=0.1, params=1000)
    assert meets({}, candidate)
    assert meets({"params": Bound(at_most=1000), "val_accuracy": Bound(at_least=0.9)}, candidate)
    assert not meets({"params": Bound(at_most=1000), "val_accuracy": Bound(at_least=0.91)}, candidate)
    assert violations({"macs": Bound(at_most=50_000)}, candidate) == {"macs": pytest.approx(1.0)}
    with pytest.raises(InputError, match="candidate 0:1 has no latency_ms, but it is constrained"):
        meets({"latency_ms": Bound(at_most=1)}, candidate)


def test_measured_values_that_say_too_little_say_nothing():
    bounds = {"params": Bound(at_most=10), "macs_kept": Bound(at_most=0.1)}
    assert measured_violations(bounds, {"macs_kept": 0.1}) is None
    assert measured_violations(bounds, {"macs_kept": 0.1, "params": 5}) == {"params": -0.5, "macs_kept": 0.0}


def test_only_sizes_are_known_before_training():
    bounds = {"macs": Bound(at_most=100), "params": Bound(at_most=1), "macs_kept": Bound(at_least=0.2)}
    found = size_violations(bounds, 0.1, unit="macs", teacher=2000)
    assert found == {"macs": pytest.approx(1.0), "macs_kept": pytest.approx(0.5)}


def test_what_nothing_meets_is_named_with_what_came_nearest(make_candidate):
    candidates = [make_candidate(trial=0, val_accuracy=0.9, macs_kept=0.2), make_candidate(trial=1, macs_kept=0.1)]
    assert unmet({}, candidates) is None
    assert unmet({"macs_kept": Bound(at_most=0.1)}, candidates) is None
    assert unmet({"macs_kept": Bound(at_most=0.1)}, []) is None
    assert unmet({"macs_kept": Bound(at_most=0.05), "val_accuracy": Bound(at_least=0.8)}, candidates) == (
        "no candidate of 2 trials meets macs_kept at most 0.05 (the nearest has 0.1); so the front is empty"
    )


def test_constraints_that_are_only_met_one_by_one_are_said(make_candidate):
    candidates = [make_candidate(val_accuracy=0.95, macs_kept=0.2), make_candidate(level=2, macs_kept=0.1)]
    bounds = {"macs_kept": Bound(at_most=0.1), "val_accuracy": Bound(at_least=0.95)}
    assert "meets all constraints at once, though each is met by some" in unmet(bounds, candidates)
